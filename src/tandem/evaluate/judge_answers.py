"""What a judge server's answer means: a reply, a failure of this call, or that no call can succeed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, Field, ValidationError

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.judge import REFUSED, UNAVAILABLE, UNPARSEABLE, JudgeSettings
from tandem.evaluate.judge_cache import Reply
from tandem.evaluate.judge_http import HttpAnswer, read_retry_after

_LONGEST_CONTENT = 65_536
"""Characters of a message; the original's judge may write some thousand, and each stands in a score line."""
_LONGEST_NAME = 256

_TOO_MANY = 429
_TEMPORARY = frozenset({408, 409, 425, _TOO_MANY})
_NO_MONEY = "insufficient_quota"
"""The error code that comes with HTTP 429 where waiting does not help."""
_LOCKED_OUT = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a call brought no reply."""

    reason: str
    temporary: bool = True
    wait: float | None = None
    """Seconds that the server asked for."""
    too_many: bool = False
    """Whether the server wants fewer calls."""


def read_answer(answer: HttpAnswer, settings: JudgeSettings, *, key: str, now: datetime) -> Reply | Failure:
    """Tell a reply from a failure; the key appears in no reason.

    Raises BadConfiguration for an answer that every call would get: a wrong key or address, an empty account.
    """
    if answer.status != 200:
        return _read_failure(answer, settings, key=key, now=now)
    try:
        reply = _Completion.model_validate_json(answer.body).reply()
    except ValidationError:
        return Failure(reason=f"{UNAVAILABLE}: the reply is no chat completion")
    if len(reply.content) > _LONGEST_CONTENT:
        what = f"a reply of {len(reply.content)} characters; {_LONGEST_CONTENT} are the most"
        return Failure(reason=f"{UNPARSEABLE}: {what}", temporary=False)
    return reply


def _read_failure(answer: HttpAnswer, settings: JudgeSettings, *, key: str, now: datetime) -> Failure:
    error = _read_error(answer.body)
    status = 402 if error.code == _NO_MONEY else answer.status
    if status in _LOCKED_OUT:
        remedies = {
            402: "Pay for the account, then score again: replies already given are kept",
            401: f"Check the key in {settings.key_env}",
            403: f"Check the key in {settings.key_env}",
        }
        remedy = remedies.get(status, f"Check judge.baseUrl and judge.model ({settings.model})")
        where = f"judge {settings.base_url}"
        raise BadConfiguration(Fault(where=where, what=f"answered HTTP {answer.status}", remedy=remedy))
    if status not in _TEMPORARY and status < 500:
        said = error.message.replace(key, "***")
        return Failure(reason=f"{REFUSED}: HTTP {status} {said}".rstrip(), temporary=False)
    return Failure(
        reason=f"{UNAVAILABLE}: HTTP {status}",
        wait=read_retry_after(answer.retry_after, now),
        too_many=status == _TOO_MANY,
    )


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = Field(default=None, max_length=_LONGEST_NAME)


class _Completion(BaseModel):
    """What is read of a chat completion; the rest may be anything."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = Field(default=None, max_length=_LONGEST_NAME)
    system_fingerprint: str | None = Field(default=None, max_length=_LONGEST_NAME)

    def reply(self) -> Reply:
        choice = self.choices[0]
        return Reply(
            content=(choice.message.content or "").strip(),
            finish_reason=choice.finish_reason,
            served_model=self.model,
            fingerprint=self.system_fingerprint,
        )


class _Error(BaseModel):
    message: str
    code: str | int | None = None


class _ErrorBody(BaseModel):
    error: _Error


def _read_error(body: bytes) -> _Error:
    """What the server says of an error, its message as one short line."""
    try:
        error = _ErrorBody.model_validate_json(body).error
    except ValidationError:
        error = _Error(message=body[:1000].decode(errors="replace"))
    return _Error(message=" ".join(error.message.split())[:200], code=error.code)
