"""Keep a judge model's replies in the store, so that scoring a second time makes no call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import ValidationError

from tandem.evaluate.judge_prompt import JudgeRequest, parse_reply
from tandem.evaluate.kept import Damaged, ObjectStore, find_kept, keep_first
from tandem.evaluate.records import Record


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


class _Entry(Record):
    format: Literal["tandem.dev/judge-cache/v1"] = "tandem.dev/judge-cache/v1"
    request: JudgeRequest
    reply: Reply


@dataclass(frozen=True)
class JudgeCache:
    """Replies under cache/judge/<sha256 of the request>.json; each tells its whole request again."""

    store: ObjectStore

    def find(self, request: JudgeRequest) -> Reply | None:
        """The reply once given to this very request; None if there is none that can be read."""
        return find_kept(self.store, _name(request), partial(_read, request))

    def keep(self, request: JudgeRequest, reply: Reply) -> Reply:
        """Keep a reply that holds a verdict, and return the one that counts: of two writers the first."""
        if not reply.content or reply.verdict(request.protocol) is None:
            return reply
        body = _Entry(request=request, reply=reply).model_dump_json().encode()
        return keep_first(self.store, _name(request), body, partial(_read, request)) or reply


def _name(request: JudgeRequest) -> str:
    return f"cache/judge/{request.sha256}"


def _read(request: JudgeRequest, body: bytes) -> Reply:
    try:
        entry = _Entry.model_validate_json(body)
    except ValidationError:
        raise Damaged from None
    if entry.request != request or entry.reply.verdict(request.protocol) is None:
        raise Damaged
    return entry.reply
