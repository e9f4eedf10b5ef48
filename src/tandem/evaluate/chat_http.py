"""Single calls of a chat server's API through the openai client, bounded in time and in size, for many threads.

The client's errors, and those of the libraries below it, stay in this module. It runs on its own aiohttp transport,
and the time of a call is one limit over all of it: a server that sends one byte after another ends no time-out of
a socket's reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2
    import openai

LARGEST_ANSWER = 1 << 20
"""Bytes of a body; a judge needs a thousand, a generated text some ten thousand."""


@dataclass(frozen=True, kw_only=True)
class HttpAnswer:
    """What came back, whole."""

    status: int
    retry_after: str
    """The header of this name; empty without one."""
    body: bytes


_Call = Callable[["openai.AsyncOpenAI"], Awaitable["httpx2.Response"]]


class NoAnswer(Exception):
    """Nothing whole came back; the text says why, on one line."""


@dataclass
class _Open:
    loop: asyncio.AbstractEventLoop
    client: openai.AsyncOpenAI
    closing: asyncio.Event


@dataclass
class Exchange:
    """One client with connections that are kept open between calls, in a thread that starts with the first call."""

    base_url: str
    key: str = field(repr=False)
    connections: int
    """At most this many at once."""
    _lock: Lock = field(default_factory=Lock, repr=False)
    _closed: bool = False
    _open: _Open | None = field(default=None, repr=False)
    _thread: Thread | None = field(default=None, repr=False)

    def post(self, request: Mapping[str, Any], *, seconds: float) -> HttpAnswer:
        """Ask for a chat completion by these parameters and read the answer, all within so many seconds.

        Redirections are not followed. Raises NoAnswer if there is none in time, if it breaks off, is no HTTP,
        or has more than LARGEST_ANSWER bytes, and once the exchange is closed.
        """
        return self._run(lambda client: _complete(client, request), seconds)

    def list_models(self, *, seconds: float) -> HttpAnswer:
        """Ask what the server serves, as post does a completion."""
        return self._run(_list_models, seconds)

    def _run(self, call: _Call, seconds: float) -> HttpAnswer:
        with self._lock:
            if self._closed:
                raise NoAnswer("stopped")
            if self._open is None:
                self._open = self._start()
            future = asyncio.run_coroutine_threadsafe(_bounded(call, self._open.client, seconds), self._open.loop)
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
        client = _open_client(self.base_url, self.key, self.connections)
        opened: list[_Open] = []
        ready = Event()

        async def serve() -> None:
            async with client:
                closing = asyncio.Event()
                opened.append(_Open(loop=asyncio.get_running_loop(), client=client, closing=closing))
                ready.set()
                await closing.wait()

        self._thread = Thread(target=lambda: asyncio.run(serve()), name="chat-http", daemon=True)
        self._thread.start()
        ready.wait()
        return opened[0]


def _open_client(base_url: str, key: str, connections: int) -> openai.AsyncOpenAI:
    import httpx2
    import openai

    with _one_error():
        client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=None,
            # Headers named here outrank those of the environment's OPENAI_CUSTOM_HEADERS.
            default_headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
            http_client=openai.DefaultAioHttpClient(
                timeout=None,
                follow_redirects=False,
                limits=httpx2.Limits(max_connections=connections),
                event_hooks={"response": [_read_bounded]},
            ),
        )
    # Who is asked, and who pays, is the Run's to say, not the environment's.
    client.organization = client.project = None
    return client


async def _read_bounded(response: httpx2.Response) -> None:
    """Read the body before the client does, which sets no limit to it.

    Only the one header that is of use is left: by the others the client would unpack the body, which can be of any
    size then, decode it as they say, or prepare to follow a redirection.
    """
    import httpx2

    received = bytearray()
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    async for chunk in stream:
        received += chunk
        if len(received) > LARGEST_ANSWER:
            raise NoAnswer(f"a reply of more than {LARGEST_ANSWER} bytes")
    await stream.aclose()
    response.stream = httpx2.ByteStream(bytes(received))
    response.headers = httpx2.Headers({"Retry-After": response.headers.get("Retry-After", "")})


async def _complete(client: openai.AsyncOpenAI, request: Mapping[str, Any]) -> httpx2.Response:
    # All goes as extra_body, which overrules the rest: it is JSON already, and the walk of the client over the types
    # of its own parameters takes as long as all else that a call does here.
    answered = await client.chat.completions.with_raw_response.create(
        model=request["model"], messages=[], extra_body=request
    )
    return answered.http_response


async def _list_models(client: openai.AsyncOpenAI) -> httpx2.Response:
    answered = await client.models.with_raw_response.list()
    return answered.http_response


async def _bounded(call: _Call, client: openai.AsyncOpenAI, seconds: float) -> HttpAnswer:
    import openai

    with _one_error():
        try:
            async with asyncio.timeout(seconds):
                response = await call(client)
        except openai.APIStatusError as error:
            response = error.response
        except TimeoutError:
            raise NoAnswer(f"no whole reply in {seconds:.3g} s") from None
    return HttpAnswer(status=response.status_code, retry_after=response.headers["Retry-After"], body=response.content)


@contextmanager
def _one_error() -> Iterator[None]:
    """Turn what the client and its transport raise into NoAnswer; its transport lets some of aiohttp's through."""
    import aiohttp
    import httpx2
    import openai

    try:
        yield
    except (openai.OpenAIError, httpx2.InvalidURL, aiohttp.ClientError, OSError, ValueError) as error:
        # The client itself says no more than "Connection error."; its cause says which.
        cause = error.__cause__ or error
        raise NoAnswer(" ".join((str(cause) or type(cause).__name__).split())[:200]) from None


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
