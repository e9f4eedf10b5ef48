"""Ask a judge model behind any OpenAI-compatible API. The openai client's errors stay in this module."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.judge import (
    REFUSED,
    UNAVAILABLE,
    UNPARSEABLE,
    ExactMatchJudge,
    Judge,
    JudgeIdentity,
    JudgeSettings,
)
from tandem.evaluate.judge_cache import JudgeCache, Reply
from tandem.evaluate.judge_prompt import ORIGINAL_TEMPERATURE, JudgeRequest, build_request
from tandem.evaluate.records import Verdict

if TYPE_CHECKING:
    import openai

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 300.0
"""Seconds. A server that asks for more has no answer for this scoring."""

_TEMPORARY = frozenset({408, 409, 425, 429})
_LOCKED_OUT = frozenset({401, 403, 404})


def open_judge(
    settings: JudgeSettings,
    *,
    environment: Mapping[str, str],
    cache: JudgeCache | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Judge:
    """The judge that the settings ask for; the key comes from the environment variable that they name.

    Raises BadConfiguration, all faults at once, if URL, model or key are missing.
    """
    if settings.kind == "exact":
        return ExactMatchJudge()
    faults = judge_faults(settings, environment)
    if faults:
        raise BadConfiguration(faults)
    return OpenAIJudge(settings=settings, key=environment[settings.key_env], cache=cache, sleep=sleep)


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
    if not environment.get(settings.key_env, "").strip():
        what = f"the environment variable {settings.key_env} is not set"
        remedy = "Set it to the judge's key, or to any text if the server needs none"
        faults.append(Fault(where="judge.keyEnv", what=what, remedy=remedy))
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


@dataclass(frozen=True, kw_only=True)
class OpenAIJudge:
    """A language model as the judge; one client for all threads."""

    settings: JudgeSettings
    key: str = field(repr=False)
    cache: JudgeCache | None = None
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    """In [0, 1): spreads the retries of calls that failed together."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _client: openai.OpenAI = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import openai

        client = openai.OpenAI(
            api_key=self.key,
            base_url=self.settings.base_url,
            timeout=self.settings.timeout_seconds,
            max_retries=0,
        )
        object.__setattr__(self, "_client", client)

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        """Take the reply from the cache, or ask; see Judge."""
        request = build_request(self.settings, question, reference, prediction)
        kept = self.cache.find(request) if self.cache else None
        if kept is not None:
            return _verdict(kept, request, cached=True)
        answer = self._ask(request)
        if isinstance(answer, _Failure):
            return Verdict(verdict="unscored", reason=answer.reason)
        reply = self.cache.keep(request, answer) if self.cache else answer
        return _verdict(reply, request, cached=False)

    def _ask(self, request: JudgeRequest) -> Reply | _Failure:
        answer = self._try(request)
        for number in range(self.settings.max_retries):
            if isinstance(answer, Reply) or not answer.temporary:
                break
            backoff = min(_LONGEST_WAIT, _FIRST_WAIT * 2**number) * (0.5 + self.jitter() / 2)
            self.sleep(backoff if answer.wait is None else answer.wait)
            answer = self._try(request)
        return answer

    def _try(self, request: JudgeRequest) -> Reply | _Failure:
        import openai

        body: dict[str, Any] = {"model": request.model, "messages": list(request.messages), **request.options}
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            return self._failure(error.status_code, error.response.headers, _brief(error.message, self.key))
        except openai.APITimeoutError:
            return _Failure(reason=f"{UNAVAILABLE}: no reply in {self.settings.timeout_seconds:g} s")
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return _Failure(reason=f"{UNAVAILABLE}: {_brief(str(cause) or type(cause).__name__, self.key)}")
        try:
            return _Completion.model_validate_json(raw.http_response.content).reply()
        except ValidationError:
            return _Failure(reason=f"{UNAVAILABLE}: the reply is no chat completion")

    def _failure(self, status: int, headers: Mapping[str, str], message: str) -> _Failure:
        if status in _LOCKED_OUT:
            remedies = {404: f"Check judge.baseUrl and judge.model ({self.settings.model})"}
            remedy = remedies.get(status, f"Check the key in {self.settings.key_env}")
            where = f"judge {self.settings.base_url}"
            raise BadConfiguration(Fault(where=where, what=f"answered HTTP {status}", remedy=remedy))
        if status not in _TEMPORARY and status < 500:
            return _Failure(reason=f"{REFUSED}: HTTP {status} {message}", temporary=False)
        wait = _retry_after(headers, self.now())
        if wait is not None and wait > _LONGEST_RETRY_AFTER:
            reason = f"{UNAVAILABLE}: HTTP {status}, asked to wait {wait:.0f} s"
            return _Failure(reason=reason, temporary=False)
        return _Failure(reason=f"{UNAVAILABLE}: HTTP {status}", wait=wait)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    reason: str
    temporary: bool = True
    wait: float | None = None
    """Seconds that the server asked for."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What is read of a chat completion; the rest may be anything."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None

    def reply(self) -> Reply:
        choice = self.choices[0]
        return Reply(
            content=(choice.message.content or "").strip(),
            finish_reason=choice.finish_reason,
            served_model=self.model,
            fingerprint=self.system_fingerprint,
        )


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


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, from Retry-After as seconds or as a date (RFC 9110, 10.2.3); None if it says neither."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def _brief(message: str, key: str) -> str:
    """One short line, without the key should the server repeat it."""
    return " ".join(message.replace(key, "***").split())[:200]
