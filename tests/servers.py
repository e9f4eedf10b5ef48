"""Servers for tests, on loopback: two that speak S3, and a proxy that breaks what goes through it."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from k8s.local.tools import built
from tandem.store.s3 import connect

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parent.parent
STARTUP_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Where an S3 server listens and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @cache  # noqa: B019 -- as many as there are servers in a session
    def client(self, *, endpoint: str | None = None, read_seconds: float = 20.0) -> S3Client:
        """A client of this server, or of a proxy before it."""
        return connect(
            endpoint=endpoint or self.endpoint,
            region=self.region,
            access_key=self.access_key,
            secret_key=self.secret_key,
            read_seconds=read_seconds,
        )

    def environment(self) -> dict[str, str]:
        """The standard AWS variables that lead here."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


@dataclass(kw_only=True)
class Versitygw:
    """A real S3 server that keeps its objects in a folder; it can be stopped, and comes back with the same objects."""

    server: S3Server
    objects: Path
    """One folder for each bucket, in it a file for each object."""
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        _wait_until_listening(int(self.server.endpoint.rpartition(":")[2]), self.process)

    def stop(self) -> None:
        """End it at once, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def versitygw_in(folder: Path) -> Iterator[Versitygw]:
    """A Versitygw that runs until it is stopped."""
    binary = built("versitygw")["versitygw"]
    objects, metadata = folder / "objects", folder / "metadata"
    objects.mkdir()
    metadata.mkdir()
    port = free_port()
    server = S3Server(endpoint=f"http://127.0.0.1:{port}", access_key="tester", secret_key="tester-secret")
    options = ["--port", f"127.0.0.1:{port}", "--access", server.access_key, "--secret", server.secret_key]
    gateway = Versitygw(
        server=server,
        objects=objects,
        command=[binary, *options, "--quiet", "posix", "--sidecar", str(metadata), str(objects)],
        log=folder / "log",
    )
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


@contextmanager
def versitygw_running(folder: Path) -> Iterator[S3Server]:
    """A real S3 server that keeps its objects below folder."""
    with versitygw_in(folder) as gateway:
        yield gateway.server


@contextmanager
def transformers_serving(folder: Path, model: str) -> Iterator[str]:
    """`transformers serve MODEL`, a real server of models, in an environment of its own; yields its base URL.

    It works in folder, where the model lies under this name.
    """
    built = subprocess.run(["make", "-s", "serve"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    programs = Path(built.stdout.strip()) / "bin"
    (folder / "hub").mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    port = free_port()
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "transformers", "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_listening(port, process, seconds=300.0)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=STARTUP_SECONDS)


@contextmanager
def moto_running() -> Iterator[S3Server]:
    """The fake S3 server. It looks and writes in two steps, so it gets one request at a time."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def serial(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with one_at_a_time:
            answer: Iterable[bytes] = application(environ, start_response)
            return answer

    server = make_server("127.0.0.1", 0, serial, threaded=True, request_handler=Quiet)
    with serving(server):
        yield S3Server(endpoint=f"http://127.0.0.1:{server.server_port}", access_key="a", secret_key="b")


class Broken(Enum):
    """What the proxy does to a request in place of passing it on."""

    SLOW_DOWN = auto()
    INTERNAL_ERROR = auto()
    TOO_MANY = auto()
    CONFLICT = auto()
    HANG = auto()
    """No answer until the client has gone."""
    RESET = auto()
    LOSE_ANSWER = auto()
    """Passed on, but the answer never comes back."""
    CUT_ANSWER = auto()
    """Passed on, but only the first half of the body comes back."""


_ANSWERS = {
    Broken.SLOW_DOWN: (503, "SlowDown"),
    Broken.INTERNAL_ERROR: (500, "InternalError"),
    Broken.TOO_MANY: (429, "TooManyRequests"),
    Broken.CONFLICT: (409, "ConditionalRequestConflict"),
}


@dataclass(kw_only=True)
class FaultyProxy:
    """Breaks the first requests of a method that fit, one for each entry of breaks, and passes on the rest."""

    upstream: str
    endpoint: str = ""
    method: str = "PUT"
    query: str = ""
    """Only requests whose query string has this."""
    path: str = ""
    """Only requests whose path ends with this."""
    breaks: deque[Broken] = field(default_factory=deque)
    ignores_conditions: bool = False
    seen: list[str] = field(default_factory=list)
    """The method of every request, the broken ones included."""
    closing: threading.Event = field(default_factory=threading.Event)

    def next_break(self, method: str, target: str) -> Broken | None:
        """What to do to this request, if anything."""
        self.seen.append(method)
        parts = urlsplit(target)
        fits = method == self.method and self.query in parts.query and parts.path.endswith(self.path)
        if self.breaks and fits:
            return self.breaks.popleft()
        return None


def address_towards(server: str) -> str:
    """This machine's address on the way to a server: whoever reaches that one most likely reaches this one, too."""
    place = urlsplit(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect((place.hostname, place.port or 443))  # sends nothing
        return str(asked.getsockname()[0])


@contextmanager
def proxy_running(upstream: str, host: str = "127.0.0.1") -> Iterator[FaultyProxy]:
    """A proxy before an S3 server, which listens on an address; set what it breaks on what this yields."""
    proxy = FaultyProxy(upstream=upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            broken = proxy.next_break(self.command, self.path)
            if broken in _ANSWERS:
                status, code = _ANSWERS[broken]
                text = f"<Error><Code>{code}</Code><Message>broken</Message></Error>".encode()
                self._answer(status, {"Content-Type": "application/xml"}, text, whole=True)
            elif broken is Broken.HANG:
                proxy.closing.wait()
            elif broken is Broken.RESET:
                self._reset()
            else:
                status, headers, text = self._forward(body)
                if broken is Broken.LOSE_ANSWER:
                    self._reset()
                else:
                    self._answer(status, headers, text, whole=broken is not Broken.CUT_ANSWER)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            dropped = {"expect", "connection"} | ({"if-none-match"} if proxy.ignores_conditions else set())
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            connection = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=STARTUP_SECONDS)
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes, *, whole: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in {"connection", "date", "server", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if whole else body[: len(body) // 2])
            self.close_connection = not whole

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

    server = ThreadingHTTPServer((host, 0), Handler)
    proxy.endpoint = f"http://{host}:{server.server_port}"
    with serving(server):
        try:
            yield proxy
        finally:
            proxy.closing.set()


def free_port() -> int:
    """A port of loopback on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def serving(server: Any) -> Iterator[None]:
    """Answers in a thread of its own; ended and closed with the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], *, seconds: float = STARTUP_SECONDS) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            pause.wait(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on {port}")
