"""Ask a judge model behind any OpenAI-compatible API: retries, limits, and what its answers mean."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.evaluate.chat_answers import ChatServer, Failure
from tandem.evaluate.chat_calls import Caller, CallLimits, server_faults
from tandem.evaluate.chat_http import HttpAnswer
from tandem.evaluate.judge import UNPARSEABLE, ExactMatchJudge, Judge, JudgeIdentity, JudgeSettings
from tandem.evaluate.judge_answers import read_answer
from tandem.evaluate.judge_cache import JudgeCache, Reply
from tandem.evaluate.judge_prompt import ORIGINAL_TEMPERATURE, JudgeRequest, build_request
from tandem.evaluate.records import Verdict


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
    return [] if settings.kind == "exact" else server_faults(describe_server(settings), environment)


def describe_server(settings: JudgeSettings) -> ChatServer:
    """The judge's server, as messages name it."""
    return ChatServer(
        section="judge",
        base_url=settings.base_url or "",
        model=settings.model or "",
        key_env=settings.key_env,
        again="score again: replies already given are kept",
    )


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
    caller: Caller = field(init=False, repr=False)
    _calls: int = field(default=0, init=False)
    _counting: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.caller = Caller(
            server=describe_server(settings),
            limits=CallLimits(
                concurrency=settings.concurrency,
                timeout_seconds=settings.timeout_seconds,
                max_retries=settings.max_retries,
                deadline_seconds=settings.deadline_seconds,
            ),
            key=self.key,
            sleep=self.sleep,
            jitter=self.jitter,
            now=self.now,
            clock=self.clock,
            before_call=self._count_call,
        )

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        """Take the reply from the cache, or ask; see Judge."""
        request = build_request(self.settings, question, reference, prediction)
        kept = self.cache.find(request) if self.cache else None
        if kept is not None:
            return _verdict(kept, request, cached=True)
        body = {"model": request.model, "messages": request.messages, **request.options}
        answer = self.caller.ask(body, self._read)
        if isinstance(answer, Failure):
            return Verdict(verdict="unscored", reason=answer.reason)
        reply = self.cache.keep(request, answer) if self.cache else answer
        return _verdict(reply, request, cached=False)

    def close(self) -> None:
        """See Judge; what is asked from now on is unscored."""
        self.caller.close()

    def _read(self, answer: HttpAnswer, now: datetime) -> Reply | Failure:
        return read_answer(answer, self.caller.server, key=self.key, now=now)

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
