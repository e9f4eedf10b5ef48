"""Ask a judge model behind any OpenAI-compatible API: retries, limits, and what its answers mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.evaluate.judge import (
    UNAVAILABLE,
    UNPARSEABLE,
    ExactMatchJudge,
    Judge,
    JudgeIdentity,
    JudgeSettings,
)
from tandem.evaluate.judge_answers import Failure, read_answer
from tandem.evaluate.judge_cache import JudgeCache, Reply
from tandem.evaluate.judge_http import Exchange, NoAnswer
from tandem.evaluate.judge_pace import Pace
from tandem.evaluate.judge_prompt import ORIGINAL_TEMPERATURE, JudgeRequest, build_request
from tandem.evaluate.records import Verdict

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0

_STOPPED = Failure(reason=f"{UNAVAILABLE}: stopped", temporary=False)


def open_judge(
    settings: JudgeSettings,
    *,
    environment: Mapping[str, str],
    cache: JudgeCache | None = None,
) -> Judge:
    """The judge that the settings ask for; the key comes from the environment variable that they name.

    Raises BadConfiguration, all faults at once, if URL, model or key are missing.
    """
    if settings.kind == "exact":
        return ExactMatchJudge()
    faults = judge_faults(settings, environment)
    if faults:
        raise BadConfiguration(faults)
    return OpenAIJudge(settings=settings, key=environment[settings.key_env].strip(), cache=cache)


def judge_faults(settings: JudgeSettings, environment: Mapping[str, str]) -> list[Fault]:
    """What keeps this judge from being asked at all; also for checking before a run."""
    if settings.kind == "exact":
        return []
    faults = []
    url = urlsplit(settings.base_url or "")
    if url.scheme not in {"http", "https"} or not url.hostname:
        remedy = "Write the API's address, for example https://api.example.com/v1"
        faults.append(Fault(where="judge.baseUrl", what="no http(s) address", remedy=remedy))
    if url.username or url.password:
        remedy = f"Put the key into the environment variable {settings.key_env}"
        faults.append(Fault(where="judge.baseUrl", what="holds a user or password", remedy=remedy))
    if not settings.model:
        faults.append(Fault(where="judge.model", what="missing", remedy="Name the judging model"))
    key = environment.get(settings.key_env, "").strip()
    if not key:
        what = f"the environment variable {settings.key_env} is not set"
        remedy = "Set it to the judge's key, or to any text if the server needs none"
        faults.append(Fault(where="judge.keyEnv", what=what, remedy=remedy))
    elif not (key.isascii() and key.isprintable()):
        what = f"the environment variable {settings.key_env} holds characters that no key has"
        faults.append(Fault(where="judge.keyEnv", what=what, remedy="Set it to the judge's key, on one line"))
    return faults


def judge_identity(settings: JudgeSettings) -> JudgeIdentity:
    """Say in one line who judges."""
    if settings.kind == "exact":
        line = "Judge: exact match after normalisation, offline. No model has judged any answer."
        return JudgeIdentity(line=line, kind="exact")
    original = settings.protocol == "original"
    temperature = ORIGINAL_TEMPERATURE if original else settings.temperature
    seed = None if original else settings.seed
    how = (
        "ORIGINAL protocol: no question shown, any 'yes' in the reply counts as right"
        if original
        else "tandem protocol: question shown, answer fenced, strict verdict"
    )
    said = f"temperature {temperature:g}, " + ("no seed" if seed is None else f"seed {seed}")
    return JudgeIdentity(
        line=f"Judge: language model {settings.model} at {settings.base_url} ({how}; {said}).",
        kind="openai",
        protocol=settings.protocol,
        url=settings.base_url,
        model=settings.model,
        temperature=temperature,
        seed=seed,
    )


@dataclass(kw_only=True)
class OpenAIJudge:
    """A language model as the judge, asked from many threads: one set of connections, one pace, one count."""

    settings: JudgeSettings
    key: str = field(repr=False)
    cache: JudgeCache | None = None
    sleep: Callable[[float], object] | None = None
    """None: one that ends early when the judge is closed."""
    jitter: Callable[[], float] = random.random
    """In [0, 1): spreads the retries of calls that failed together."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    pace: Pace = field(init=False, repr=False)
    _exchange: Exchange = field(init=False, repr=False)
    _calls: int = field(default=0, init=False)
    _counting: Lock = field(default_factory=Lock, init=False, repr=False)
    _closed: Event = field(default_factory=Event, init=False, repr=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.settings.concurrency)
        self._exchange = Exchange(
            base_url=self.settings.base_url or "",
            key=self.key,
            connections=self.settings.concurrency,
        )

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        """Take the reply from the cache, or ask; see Judge."""
        request = build_request(self.settings, question, reference, prediction)
        kept = self.cache.find(request) if self.cache else None
        if kept is not None:
            return _verdict(kept, request, cached=True)
        answer = self._ask(request)
        if isinstance(answer, Failure):
            return Verdict(verdict="unscored", reason=answer.reason)
        reply = self.cache.keep(request, answer) if self.cache else answer
        return _verdict(reply, request, cached=False)

    def close(self) -> None:
        """See Judge; what is asked from now on is unscored."""
        self._closed.set()
        self.pace.close()
        self._exchange.close()

    def _ask(self, request: JudgeRequest) -> Reply | Failure:
        """Call until there is a reply, a failure that cannot pass, or no try or no time left.

        The sample's time runs from its first call on, so that waiting for a turn costs it nothing. To be told that
        there are too many calls is no failure of this one: it costs time, not a try.
        """
        body = {"model": request.model, "messages": request.messages, **request.options}
        end: float | None = None
        answer = _STOPPED
        tries_left = self.settings.max_retries + 1
        for number in count():
            call = self.pace.begin()
            if call is None:
                return _STOPPED
            too_many = False
            try:
                start = self.clock()
                end = start + self.settings.deadline_seconds if end is None else end
                if start >= end:
                    return answer
                answered = self._try(body, min(self.settings.timeout_seconds, end - start))
                too_many = isinstance(answered, Failure) and answered.too_many
            finally:
                self.pace.end(call, too_many=too_many)
            tries_left -= not too_many
            if isinstance(answered, Reply) or not answered.temporary or not tries_left:
                return answered
            answer = answered
            wait = self._wait_after(answer, number)
            if self.clock() + wait >= end:
                asked = f", asked to wait {wait:.0f} s" if answer.wait is not None else ""
                return Failure(reason=f"{answer.reason}{asked}; the sample's time is up")
            self._pause(wait)
        raise AssertionError("count() does not end")

    def _wait_after(self, failure: Failure, number: int) -> float:
        spread = 0.5 + self.jitter() / 2
        if failure.wait is not None:
            return max(failure.wait, _FIRST_WAIT * spread)
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(number, 10)) * spread

    def _pause(self, seconds: float) -> None:
        if self.sleep is None:
            self._closed.wait(seconds)
        else:
            self.sleep(seconds)

    def _try(self, body: Mapping[str, Any], seconds: float) -> Reply | Failure:
        self._count_call()
        try:
            answer = self._exchange.post(body, seconds=seconds)
        except NoAnswer as error:
            return Failure(reason=f"{UNAVAILABLE}: {str(error).replace(self.key, '***')}")
        return read_answer(answer, self.settings, key=self.key, now=self.now())

    def _count_call(self) -> None:
        most = self.settings.max_calls
        with self._counting:
            if most is not None and self._calls >= most:
                raise Unavailable(
                    Fault(
                        where="judge",
                        what=f"{self._calls} calls were made, as many as judge.maxCalls allows, and answers are left",
                        remedy="Score again to go on, for replies already given are kept; or allow more calls",
                    )
                )
            self._calls += 1


def _verdict(reply: Reply, request: JudgeRequest, *, cached: bool) -> Verdict:
    verdict = reply.verdict(request.protocol)
    cut = " (cut off by the token limit)" if reply.finish_reason == "length" else ""
    return Verdict(
        verdict=verdict or "unscored",
        reason=None if verdict else f"{UNPARSEABLE}: the reply is no verdict{cut}",
        reply=reply.content,
        served_model=reply.served_model,
        fingerprint=reply.fingerprint,
        cached=cached,
    )
