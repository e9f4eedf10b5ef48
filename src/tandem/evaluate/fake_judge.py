"""A judge server on the loopback that behaves as it is told: for tests, demos and trials without a network."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from tandem.evaluate.extract import is_exact
from tandem.evaluate.fake_chat import FakeChatServer, FakeReply


def exact_match_reply(request: Mapping[str, Any]) -> FakeReply:
    """Judge as an obedient model would, by exact match of the fenced answer with the fenced reference."""
    text = request["messages"][-1]["content"]
    reference, prediction = (_fenced(text, name) for name in ("REFERENCE", "GRADED ANSWER"))
    word = "right" if is_exact(prediction, reference) else "wrong"
    return FakeReply(content=json.dumps({"verdict": word}))


FAILURES: Mapping[str, FakeReply] = {
    "too many requests": FakeReply(status=429),
    "too many requests, wait": FakeReply(status=429, headers={"Retry-After": "1"}),
    "server error": FakeReply(status=500),
    "hang": FakeReply(hang=True),
    "garbage": FakeReply(body=b"\x00\xff<html>\n\n"),
    "empty": FakeReply(body=b""),
    "cut-off JSON": FakeReply(body=b'{"choices": [{"message": {"cont'),
    "cut-off body": FakeReply(cut=40),
    "reset": FakeReply(reset=True),
    "slow drip": FakeReply(drip_seconds=1.0),
    "wrong content type": FakeReply(body=b"<html>Sign in</html>", content_type="text/html"),
    "refused": FakeReply(status=400),
    "no verdict": FakeReply(content="No, but one could say yes"),
    "no content": FakeReply(content=None),
    "cut off by the token limit": FakeReply(content="Yes", finish_reason="length"),
}
"""Every way in which a judge fails, by name."""


def break_some(
    reply: Callable[[Mapping[str, Any]], FakeReply], *, share: float, seed: int
) -> Callable[[Mapping[str, Any]], FakeReply]:
    """Give the same replies, but let this share of the calls fail, in every way in turn."""
    draw = random.Random(seed)  # noqa: S311
    ways = cycle(FAILURES.values())

    def choose(request: Mapping[str, Any]) -> FakeReply:
        return next(ways) if draw.random() < share else reply(request)

    return choose


class FakeJudgeServer(FakeChatServer):
    """A FakeChatServer that judges by exact match unless it is told otherwise."""

    def __init__(self, reply: Callable[[Mapping[str, Any]], FakeReply] = exact_match_reply) -> None:
        super().__init__(reply)


def _fenced(text: str, name: str) -> str:
    found = re.search(rf"^BEGIN {name} (\w+)\n(.*?)\nEND {name} \1$", text, flags=re.DOTALL | re.MULTILINE)
    return found[2] if found else ""
