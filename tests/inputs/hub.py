"""A mirror of the hub with one model at one commit, as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_running(model: str, files: Mapping[str, bytes], *, resets: str = "") -> Iterator[str]:
    """The address of a mirror that has `model` at COMMIT and knows no other; `team/gated` wants a token.

    resets: name of a file in whose middle the connection is reset, every time.
    """

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about = f"/api/models/{model}/"
            if self.path.startswith("/api/models/team/gated/"):
                self.answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
            elif not self.path.startswith((about, f"/{model}/")):
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif COMMIT not in self.path:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif self.path.startswith(f"{about}revision/"):
                siblings = [{"rfilename": name} for name in files]
                self.answer(200, json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode(), {})
            elif self.path.startswith(f"{about}tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}  # noqa: S324
                    for name, body in files.items()
                ]
                self.answer(200, json.dumps(entries).encode(), {})
            else:
                name = self.path.partition(f"/resolve/{COMMIT}/")[2]
                tag = hashlib.sha256(files[name]).hexdigest()
                self.answer(200, files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, whole=name != resets)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, code: int, body: bytes, headers: Mapping[str, str], *, whole: bool = True) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if whole else body[: len(body) // 2])
                if not whole:
                    self.reset()

        def reset(self) -> None:
            """Close so that the other side sees a reset, not an end."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
