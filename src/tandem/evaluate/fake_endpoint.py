"""A server of texts on the loopback that behaves as it is told: for tests and trials without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from tandem.evaluate.fake_chat import FakeChatServer, FakeReply


def describe_request(request: Mapping[str, Any]) -> FakeReply:
    """Answer with what was asked, so that a reader sees the order of texts and images: images by their digest."""
    return FakeReply(
        content="\n".join(f"{turn['role']}: {_describe(turn['content'])}" for turn in request["messages"]),
        usage={"prompt_tokens": 11, "completion_tokens": 7},
    )


def _describe(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else _digest(part["image_url"]["url"]) for part in content)


def _digest(url: str) -> str:
    return f"[{hashlib.sha256(url.encode()).hexdigest()[:8]}]"


class FakeEndpointServer(FakeChatServer):
    """A FakeChatServer that says what it was asked unless it is told otherwise."""

    def __init__(
        self, reply: Callable[[Mapping[str, Any]], FakeReply] = describe_request, *, models: FakeReply | None = None
    ) -> None:
        super().__init__(reply, models=models)
