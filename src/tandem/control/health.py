"""What a controller tells about itself: /healthz, /readyz and /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STALE_SECONDS = 90.0
"""Without a sign of life for so long a part counts as stuck."""


@dataclass(kw_only=True)
class Metrics:
    """The figures that Prometheus reads."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        at = self.registry
        self.runs = Gauge("tandem_runs", "Run objects by phase.", ["phase"], registry=at)
        self.looks = Counter("tandem_looks", "Looks at a Run, by how they ended.", ["outcome"], registry=at)
        self.look_seconds = Histogram("tandem_look_seconds", "How long a look at a Run takes.", registry=at)
        self.waiting = Gauge("tandem_runs_waiting", "Runs to be looked at, the delayed ones included.", registry=at)
        self.happenings = Counter("tandem_happenings", "What happened to Runs, by reason.", ["reason"], registry=at)
        self.watch_failures = Counter("tandem_watch_failures", "Failed lists and watches.", ["kind"], registry=at)
        self.store_up = Gauge("tandem_store_up", "1 if the store answered when it was last asked.", registry=at)
        self.last_look = Gauge("tandem_last_look_timestamp_seconds", "When a Run was last looked at.", registry=at)


@dataclass(kw_only=True)
class Health:
    """Whether the controller lives and can work; parts report, probes ask."""

    now: Callable[[], float]
    beats: dict[str, float] = field(default_factory=dict)
    """Last sign of life of each part."""
    unready: dict[str, str] = field(default_factory=dict)
    """What keeps it from working, by part."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def beat(self, part: str) -> None:
        """A part is alive."""
        with self._lock:
            self.beats[part] = self.now()

    def say(self, part: str, trouble: str | None) -> None:
        """A part can work, or cannot because of this."""
        with self._lock:
            if trouble is None:
                self.unready.pop(part, None)
            else:
                self.unready[part] = trouble

    def find_stuck(self) -> list[str]:
        """Parts without a sign of life."""
        with self._lock:
            return sorted(part for part, at in self.beats.items() if self.now() - at > STALE_SECONDS)

    def find_trouble(self) -> list[str]:
        """What keeps the controller from working."""
        with self._lock:
            return [f"{part}: {trouble}" for part, trouble in sorted(self.unready.items())]


@contextmanager
def serving(health: Health, metrics: Metrics, *, host: str, port: int) -> Iterator[int]:
    """Answer probes and Prometheus for as long as the context lasts; yields the port (0 takes a free one)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.split("?")[0]:
                case "/healthz":
                    self._answer_lines(health.find_stuck())
                case "/readyz":
                    self._answer_lines(health.find_trouble())
                case "/metrics":
                    self._answer(200, generate_latest(metrics.registry), "text/plain; version=0.0.4; charset=utf-8")
                case _:
                    self._answer(404, b"/healthz, /readyz, /metrics\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every few seconds: not worth a line."""

        def _answer_lines(self, lines: list[str]) -> None:
            self._answer(503 if lines else 200, ("\n".join(lines) or "ok").encode() + b"\n")

        def _answer(self, status: int, body: bytes, content: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True, kwargs={"poll_interval": 0.2})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
