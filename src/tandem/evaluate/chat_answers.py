"""What a chat server's answer means: a completion, a failure of this call, or that no call can succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError, WrapValidator

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.chat_http import HttpAnswer, read_retry_after

UNAVAILABLE = "unavailable"
"""Reason: no reply after all tries."""
REFUSED = "refused"
"""Reason: the server does not accept this request."""

_LONGEST_NAME = 256

_TOO_MANY = 429
_TEMPORARY = frozenset({408, 409, 425, _TOO_MANY})
_NO_MONEY = "insufficient_quota"
"""The error code that comes with HTTP 429 where waiting does not help."""
_LOCKED_OUT = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404})


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """Who is asked, for messages: a section of the Run file."""

    section: str
    """Its name there, for example judge."""
    base_url: str
    model: str
    key_env: str
    again: str
    """What to do once all is well, as a clause: `score again: ...`."""

    @property
    def place(self) -> str:
        """Section and address."""
        return f"{self.section} {self.base_url}"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a call brought no reply."""

    reason: str
    """UNAVAILABLE, REFUSED or a reader's own word, and what more is known after a colon."""
    temporary: bool = True
    wait: float | None = None
    """Seconds that the server asked for."""
    too_many: bool = False
    """Whether the server wants fewer calls."""


@dataclass(frozen=True, kw_only=True)
class Refusal(Failure):
    """The server does not accept this request, and will not accept it a second time."""

    temporary: bool = False


class Message(BaseModel):
    """What was said."""

    content: str | None = None


class Choice(BaseModel):
    """One reply, and why it ends where it does."""

    message: Message
    finish_reason: str | None = Field(default=None, max_length=_LONGEST_NAME)


class Usage(BaseModel):
    """Tokens, as the server counts them."""

    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


def _read_usage(value: object, read: Callable[[object], Usage | None]) -> Usage | None:
    """A reply does not depend on how its tokens are counted: what cannot be read is not known."""
    try:
        return read(value)
    except ValidationError:
        return None


class Completion(BaseModel):
    """What is read of a chat completion; the rest may be anything."""

    choices: list[Choice] = Field(min_length=1)
    model: str | None = Field(default=None, max_length=_LONGEST_NAME)
    system_fingerprint: str | None = Field(default=None, max_length=_LONGEST_NAME)
    usage: Annotated[Usage | None, WrapValidator(_read_usage)] = None


def read_completion(answer: HttpAnswer, server: ChatServer, *, key: str, now: datetime) -> Completion | Failure:
    """Tell a completion from a failure; the key appears in no reason.

    Raises BadConfiguration for an answer that every call would get: a wrong key or address, an empty account.
    """
    if answer.status != 200:
        return _read_failure(answer, server, key=key, now=now)
    try:
        return Completion.model_validate_json(answer.body)
    except ValidationError:
        return Failure(reason=f"{UNAVAILABLE}: the reply is no chat completion")


def _read_failure(answer: HttpAnswer, server: ChatServer, *, key: str, now: datetime) -> Failure:
    error = _read_error(answer.body, key)
    status = 402 if error.code == _NO_MONEY else answer.status
    if status in _LOCKED_OUT:
        remedies = {
            402: f"Pay for the account, then {server.again}",
            401: f"Check the key in {server.key_env}",
            403: f"Check the key in {server.key_env}",
        }
        remedy = remedies.get(status, f"Check {server.section}.baseUrl and {server.section}.model ({server.model})")
        what = f"answered HTTP {answer.status} {error.message}".rstrip(" .")
        raise BadConfiguration(Fault(where=server.place, what=what, remedy=remedy))
    if status not in _TEMPORARY and status < 500:
        return Refusal(reason=f"{REFUSED}: HTTP {status} {error.message}".rstrip())
    return Failure(
        reason=f"{UNAVAILABLE}: HTTP {status}",
        wait=read_retry_after(answer.retry_after, now),
        too_many=status == _TOO_MANY,
    )


class _Error(BaseModel):
    message: str
    code: str | int | None = None


class _ErrorBody(BaseModel):
    error: _Error


def _read_error(body: bytes, key: str) -> _Error:
    """What the server says of an error, its message as one short line, the key taken out while it is still whole."""
    try:
        error = _ErrorBody.model_validate_json(body).error
    except ValidationError:
        error = _Error(message=body.decode(errors="replace"))
    return _Error(message=" ".join(error.message.replace(key, "***").split())[:200], code=error.code)
