"""Keep a judge model's replies in the store, so that scoring a second time makes no call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import ValidationError

from tandem.evaluate.judge_prompt import JudgeRequest, parse_reply
from tandem.evaluate.records import Record
from tandem.store import AlreadyThere, Corrupt, NotThere

_GENERATIONS = 4
"""Where even the last of so many entries is damaged, the call is made each time."""


class Reply(Record):
    """What a judge model answered."""

    content: str
    finish_reason: str | None = None
    served_model: str | None = None
    fingerprint: str | None = None

    def verdict(self, protocol: Literal["tandem", "original"]) -> Literal["right", "wrong"] | None:
        """The verdict in it; None if there is none, or if the reply was cut off before its end."""
        if protocol == "tandem" and self.finish_reason == "length":
            return None
        return parse_reply(protocol, self.content)


class ObjectStore(Protocol):
    """The two methods of a Store that the cache uses."""

    def get(self, key: str) -> bytes:
        """Read an object. Raises NotThere."""
        ...

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Write an object once. Raises AlreadyThere."""
        ...


class _Entry(Record):
    format: Literal["tandem.dev/judge-cache/v1"] = "tandem.dev/judge-cache/v1"
    request: JudgeRequest
    reply: Reply


@dataclass(frozen=True)
class JudgeCache:
    """Replies under cache/judge/<sha256 of the request>.json; each tells its whole request again.

    Objects never change, so a damaged entry stays as it is: the reply that is then asked for anew goes beside it,
    as <sha256>-1.json, and counts from then on.
    """

    store: ObjectStore

    def find(self, request: JudgeRequest) -> Reply | None:
        """The reply once given to this very request; None if there is none that can be read."""
        for key in _keys(request):
            try:
                return self._read(key, request)
            except NotThere:
                return None
            except _Damaged:
                continue
        return None

    def keep(self, request: JudgeRequest, reply: Reply) -> Reply:
        """Keep a reply that holds a verdict, and return the one that counts: of two writers the first."""
        if not reply.content or reply.verdict(request.protocol) is None:
            return reply
        body = _Entry(request=request, reply=reply).model_dump_json().encode()
        for key in _keys(request):
            try:
                self.store.put_if_absent(key, body)
                break
            except AlreadyThere:
                with suppress(_Damaged, NotThere):
                    return self._read(key, request)
        return reply

    def _read(self, key: str, request: JudgeRequest) -> Reply:
        try:
            entry = _Entry.model_validate_json(self.store.get(key))
        except (Corrupt, ValidationError):
            raise _Damaged from None
        if entry.request != request or entry.reply.verdict(request.protocol) is None:
            raise _Damaged
        return entry.reply


class _Damaged(Exception):
    """The entry cannot be used."""


def _keys(request: JudgeRequest) -> Iterator[str]:
    digest = request.sha256
    yield f"cache/judge/{digest}.json"
    for generation in range(1, _GENERATIONS):
        yield f"cache/judge/{digest}-{generation}.json"
