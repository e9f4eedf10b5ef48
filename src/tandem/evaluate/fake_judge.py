"""A judge server on the loopback that behaves as it is told: for tests, demos and trials without a network."""

from __future__ import annotations

import io
import json
import random
import re
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

from tandem.evaluate.extract import is_exact


@dataclass(frozen=True, kw_only=True)
class FakeReply:
    """What the server does with one call."""

    content: str | None = '{"verdict": "right"}'
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    body: bytes | None = None
    """Sent as it is in place of a chat completion."""
    content_type: str = "application/json"
    after_seconds: float = 0.0
    """Think for so long first."""
    hang: bool = False
    """Answer nothing until the server is closed."""
    reset: bool = False
    """Answer nothing and reset the connection."""
    cut: int | None = None
    """Send only so many bytes of the body, which was announced whole, and close."""
    drip_seconds: float | None = None
    """Pause for so long before each byte of the answer, status line and headers included."""


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    """A thousand judges may connect at once: the usual 5 would make most of them wait a second."""


class FakeJudgeServer:
    """An HTTP server for POST .../chat/completions on a free port of 127.0.0.1; a context manager."""

    def __init__(self, reply: Callable[[Mapping[str, Any]], FakeReply] = exact_match_reply) -> None:
        self.requests: list[dict[str, Any]] = []
        """The body of every call, in order of arrival."""
        self.keys: list[str] = []
        """The bearer token of every call."""
        self._reply = reply
        self._lock = Lock()
        self._closing = Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """What judge.baseUrl is to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    fake.requests.append(request)
                    fake.keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
                known = self.path.endswith("/chat/completions")
                reply = fake._reply(request) if known else FakeReply(status=404)
                if reply.after_seconds:
                    fake._closing.wait(reply.after_seconds)
                if reply.hang:
                    fake._closing.wait()
                if reply.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                if reply.hang or reply.reset:
                    self.close_connection = True
                    return
                body = _completion(request, reply) if reply.body is None else reply.body
                out, self.wfile = self.wfile, io.BytesIO()
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                answer, self.wfile = self.wfile.getvalue() + body[: reply.cut], out
                self.close_connection = self.close_connection or reply.cut is not None
                with suppress(OSError):  # Who asked may have given up.
                    self._send(answer, reply.drip_seconds)

            def _send(self, answer: bytes, drip_seconds: float | None) -> None:
                if drip_seconds is None:
                    self.connection.sendall(answer)
                    return
                for number in range(len(answer)):
                    if fake._closing.wait(drip_seconds):
                        return
                    self.connection.sendall(answer[number : number + 1])

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the requests are kept."""

        return Handler


def _completion(request: Mapping[str, Any], reply: FakeReply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": f"the fake judge answers {reply.status}"}}).encode()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.content},
        "finish_reason": reply.finish_reason,
    }
    completion = {
        "id": "fake",
        "object": "chat.completion",
        "created": 0,
        "model": f"{request['model']}-fake",
        "system_fingerprint": "fake",
        "choices": [choice],
    }
    return json.dumps(completion).encode()


def _fenced(text: str, name: str) -> str:
    found = re.search(rf"^BEGIN {name} (\w+)\n(.*?)\nEND {name} \1$", text, flags=re.DOTALL | re.MULTILINE)
    return found[2] if found else ""
