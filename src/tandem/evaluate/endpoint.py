"""Texts from a server: many calls at once, each sample answered or accounted for, never counted as wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Event, Lock
from typing import Any, Literal

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.evaluate.batches import Batch
from tandem.evaluate.chat_answers import REFUSED, UNAVAILABLE, ChatServer, Failure, Refusal, read_completion
from tandem.evaluate.chat_calls import Caller, CallLimits
from tandem.evaluate.chat_http import HttpAnswer
from tandem.evaluate.endpoint_request import AskedSample, build_request
from tandem.evaluate.parts import Part
from tandem.evaluate.records import Prediction
from tandem.spec import EndpointSpec

HOPELESS = 8
"""So many samples in a row without an answer, and as many as may be asked at once, are taken for a server that is
away."""

_AGAIN = "Run the same command again"
_FINISHED: Mapping[str | None, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_WITHHELD = frozenset({"content_filter", "tool_calls", "function_call"})
"""Ends of an answer that asking again would not change, and whose text is not all that the model said."""


def describe_endpoint(endpoint: EndpointSpec) -> ChatServer:
    """The server, as messages name it."""
    return ChatServer(
        section="endpoint",
        base_url=endpoint.base_url,
        model=endpoint.model,
        key_env=endpoint.key_env,
        again="run the same command again: texts already there are kept",
    )


def open_caller(endpoint: EndpointSpec, *, key: str) -> Caller:
    """Connections to the server, with the section's limits."""
    return Caller(
        server=describe_endpoint(endpoint),
        limits=CallLimits(
            concurrency=endpoint.concurrency,
            timeout_seconds=endpoint.timeout_seconds,
            max_retries=endpoint.max_retries,
            deadline_seconds=endpoint.deadline_seconds,
        ),
        key=key,
    )


@dataclass(kw_only=True)
class EndpointTexts:
    """Makes texts by asking a server, one sample a batch; a `parts.TextMaker`, for one use."""

    endpoint: EndpointSpec
    caller: Caller
    samples: Sequence[AskedSample]
    """The whole evaluation's."""
    max_new_tokens: int
    name: str = "endpoint"
    least_samples: int = 16
    _ending: Event = field(default_factory=Event, init=False, repr=False)

    def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
        """See `parts.TextMaker`: each sample as soon as it is answered.

        A sample that gets no answer does not keep the others from theirs. Raises Unavailable in the end if there are
        such samples, or as soon as nobody is answered any more; BadConfiguration for an answer that every sample would
        get (a wrong key, address or model) and for samples that the server refuses, once the calls under way are over.
        """
        batches = [batch for part in parts for batch in part.batches]
        self.caller.before_call = self._stop_if_ending
        failures = _Failures(total=len(batches), most_in_a_row=max(HOPELESS, self.endpoint.concurrency))
        with ThreadPoolExecutor(max_workers=max(1, min(self.endpoint.concurrency, len(batches)))) as pool:
            try:
                asked = {pool.submit(self._ask, self.samples[batch.samples[0]], failures): batch for batch in batches}
                for future in as_completed(asked):
                    batch = asked.pop(future)
                    prediction = future.result()
                    if prediction is not None:
                        yield batch, [prediction]
                    elif failures.is_hopeless:
                        break
            finally:
                self.close()
        failures.raise_any(self.caller.server)

    def describe(self) -> dict[str, Any]:
        """Nothing: its settings are the evaluation's."""
        return {}

    def close(self) -> None:
        """End the calls under way, for good."""
        self._ending.set()
        self.caller.close()

    def _stop_if_ending(self) -> None:
        if self._ending.is_set():
            raise _Ending

    def _ask(self, asked: AskedSample, failures: _Failures) -> Prediction | None:
        """None: there is no answer, or it was not asked for, since the end is near."""
        if self._ending.is_set():
            return None
        try:
            request = build_request(asked, self.endpoint, max_new_tokens=self.max_new_tokens)
            answer = self.caller.ask(request, partial(self._read, asked))
        except _Ending:
            return None
        except BaseException:
            self._ending.set()
            raise
        if failures.note(asked, answer):
            self._ending.set()
        return None if isinstance(answer, Failure) else answer

    def _read(self, asked: AskedSample, answer: HttpAnswer, now: datetime) -> Prediction | Failure:
        completion = read_completion(answer, self.caller.server, key=self.caller.key, now=now)
        if isinstance(completion, Failure):
            return completion
        choice, usage = completion.choices[0], completion.usage
        finish = _FINISHED.get(choice.finish_reason)
        if choice.finish_reason in _WITHHELD:
            return Refusal(reason=f"{REFUSED}: the answer was ended by {choice.finish_reason}")
        if finish is None:
            return Failure(reason=f"{UNAVAILABLE}: the answer does not say that it is whole or cut at the token limit")
        if choice.message.content is None:
            return Refusal(
                reason=f"{REFUSED}: the answer has no text; turn the server's parsers of reasoning and tools off"
            )
        return Prediction(
            **dict(asked.sample),
            text=choice.message.content,
            finish=finish,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            new_tokens=None if usage is None else usage.completion_tokens,
            tiles=None,
            served_model=completion.model,
            fingerprint=completion.system_fingerprint,
        )


class _Ending(Exception):
    """No further call is to be made."""


@dataclass(kw_only=True)
class _Failures:
    """Samples without an answer so far, as all threads tell."""

    total: int
    most_in_a_row: int
    """So many are enough to know that there will be no answer."""
    in_a_row: int = 0
    is_hopeless: bool = False
    """Once it is, calls are broken off, which says nothing about their samples."""
    refused: list[tuple[AskedSample, Failure]] = field(default_factory=list)
    missed: list[tuple[AskedSample, Failure]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def note(self, asked: AskedSample, answer: Prediction | Failure) -> bool:
        """Take note of a sample's end; whether nothing more is to be asked."""
        with self.lock:
            if isinstance(answer, Prediction):
                self.in_a_row = 0
            elif not self.is_hopeless:
                self.in_a_row += 1
                (self.refused if isinstance(answer, Refusal) else self.missed).append((asked, answer))
                self.is_hopeless = self.in_a_row >= self.most_in_a_row
            return bool(self.refused) or self.is_hopeless

    def raise_any(self, server: ChatServer) -> None:
        if self.refused:
            remedy = f"Change the evaluation's settings or the server's. {_AGAIN} then: texts already there are kept."
            raise BadConfiguration(self._describe(self.refused, server, remedy))
        if self.missed:
            remedy = f"{_AGAIN} once the server is well: texts already there are kept."
            raise Unavailable(self._describe(self.missed, server, remedy))

    def _describe(self, failed: Sequence[tuple[AskedSample, Failure]], server: ChatServer, remedy: str) -> list[Fault]:
        """One fault for each reason."""
        counts = Counter(failure.reason for _, failure in failed)
        first = {failure.reason: asked.place for asked, failure in reversed(failed)}
        return [
            Fault(
                where=server.place,
                what=f"{count} of {self.total} samples got no text, the first at {first[reason]} ({reason})",
                remedy=remedy,
            )
            for reason, count in counts.most_common()
        ]
