"""One HTTP exchange, bounded in time and in size, for many threads. aiohttp's errors stay in this module.

Measured on two cores against a server that takes 200 ms: 0.5 ms of work a call, where the openai client and the
connection pool below it need 3 to 5 ms, more the more calls run at once. And aiohttp's total time holds for a
server that sends one byte after another, which a time-out of a socket's reads never ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import aiohttp

LARGEST_ANSWER = 1 << 20
"""Bytes of a body; a judge needs a thousand."""


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """What came back, whole."""

    status: int
    retry_after: str
    """The header of this name; empty without one."""
    body: bytes


class NoAnswer(Exception):
    """Nothing whole came back; the text says why, on one line."""


@dataclass
class _Open:
    loop: asyncio.AbstractEventLoop
    session: aiohttp.ClientSession
    closing: asyncio.Event


@dataclass
class Exchange:
    """Connections that are kept open between calls, in a thread of their own that starts with the first call."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    connections: int
    """At most this many at once."""
    _lock: Lock = field(default_factory=Lock, repr=False)
    _closed: bool = False
    _open: _Open | None = field(default=None, repr=False)
    _thread: Thread | None = field(default=None, repr=False)

    def post(self, body: bytes, *, seconds: float) -> HttpAnswer:
        """Send a JSON body and read the answer, all within so many seconds.

        Redirections are not followed. Raises NoAnswer if there is none in time, if it breaks off, is no HTTP,
        or has more than LARGEST_ANSWER bytes, and once the exchange is closed.
        """
        with self._lock:
            if self._closed:
                raise NoAnswer("stopped")
            if self._open is None:
                self._open = self._start()
            future = asyncio.run_coroutine_threadsafe(
                _post(self._open.session, self.url, body, seconds), self._open.loop
            )
        try:
            return future.result()
        except CancelledError:
            raise NoAnswer("stopped") from None

    def close(self) -> None:
        """End the calls under way and close all connections, for good."""
        with self._lock:
            self._closed = True
            if self._open is not None:
                self._open.loop.call_soon_threadsafe(self._open.closing.set)
                self._open = None
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> _Open:
        opened: list[_Open] = []
        ready = Event()

        async def serve() -> None:
            async with _open_session(self.url, self.headers, self.connections) as session:
                closing = asyncio.Event()
                opened.append(_Open(loop=asyncio.get_running_loop(), session=session, closing=closing))
                ready.set()
                await closing.wait()

        self._thread = Thread(target=lambda: asyncio.run(serve()), name="judge-http", daemon=True)
        self._thread.start()
        ready.wait()
        return opened[0]


def _open_session(url: str, headers: Mapping[str, str], connections: int) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        headers={**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
        connector=aiohttp.TCPConnector(limit=connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=_find_proxy(url),
        # A compressed body could be of any size once unpacked; none is asked for, and none is unpacked.
        auto_decompress=False,
    )


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, seconds: float) -> HttpAnswer:
    import aiohttp

    limit = aiohttp.ClientTimeout(total=seconds)
    try:
        async with session.post(url, data=body, timeout=limit, allow_redirects=False) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > LARGEST_ANSWER:
                    raise NoAnswer(f"a reply of more than {LARGEST_ANSWER} bytes")
            return HttpAnswer(
                status=response.status, retry_after=response.headers.get("Retry-After", ""), body=bytes(received)
            )
    except TimeoutError:
        raise NoAnswer(f"no whole reply in {seconds:.3g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswer(" ".join((str(error) or type(error).__name__).split())[:200]) from None


def _find_proxy(url: str) -> str | None:
    """The proxy that the environment names for this address, unless it excepts the host."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def read_retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait, from Retry-After as seconds or as a date (RFC 9110, 10.2.3); None if it says neither."""
    text = value.strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None
