"""A chat server on the loopback that behaves as it is told: for tests, demos and trials without a network."""

from __future__ import annotations

import io
import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class FakeReply:
    """What the server does with one call."""

    content: str | None = '{"verdict": "right"}'
    status: int = 200
    model: str | None = None
    """Who is said to have answered. None: the model that was asked for, and `-fake`."""
    usage: Mapping[str, int] | None = None
    """prompt_tokens, completion_tokens. None: the server does not count."""
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    """A thousand judges may connect at once: the usual 5 would make most of them wait a second."""


class FakeChatServer:
    """An HTTP server for chat/completions and models on a free port of 127.0.0.1; a context manager."""

    def __init__(self, reply: Callable[[Mapping[str, Any]], FakeReply], *, models: FakeReply | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        """The body of every call, in order of arrival."""
        self.keys: list[str] = []
        """The bearer token of every call."""
        self._reply = reply
        self._models = models or FakeReply(body=json.dumps({"object": "list", "data": []}).encode())
        self._lock = Lock()
        self._closing = Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """What baseUrl is to be in a Run file."""
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

            def do_GET(self) -> None:
                self._note_key()
                known = self.path.endswith("/models")
                self._answer({"model": ""}, fake._models if known else FakeReply(status=404))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    fake.requests.append(request)
                self._note_key()
                known = self.path.endswith("/chat/completions")
                self._answer(request, fake._reply(request) if known else FakeReply(status=404))

            def _note_key(self) -> None:
                with fake._lock:
                    fake.keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))

            def _answer(self, request: Mapping[str, Any], reply: FakeReply) -> None:
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
        return json.dumps({"error": {"message": f"the fake server answers {reply.status}"}}).encode()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.content},
        "finish_reason": reply.finish_reason,
    }
    completion = {
        "id": "fake",
        "object": "chat.completion",
        "created": 0,
        "model": reply.model or f"{request['model']}-fake",
        "system_fingerprint": "fake",
        "choices": [choice],
        **({} if reply.usage is None else {"usage": dict(reply.usage)}),
    }
    return json.dumps(completion).encode()
