"""Call a chat server until it answers or there is no try or no time left: one pace and one set of connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from threading import Event
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tandem.errors import Fault
from tandem.evaluate.chat_answers import UNAVAILABLE, ChatServer, Failure
from tandem.evaluate.chat_http import Exchange, HttpAnswer, NoAnswer
from tandem.evaluate.chat_pace import Pace

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0

_STOPPED = Failure(reason=f"{UNAVAILABLE}: stopped", temporary=False)

ReplyT = TypeVar("ReplyT")


def server_faults(server: ChatServer, environment: Mapping[str, str], *, place: str = "") -> list[Fault]:
    """What keeps this server from being asked at all; `place` stands before the section's name."""
    where = f"{place}{server.section}"
    faults = []
    url = urlsplit(server.base_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        remedy = "Write the API's address, for example https://api.example.com/v1"
        faults.append(Fault(where=f"{where}.baseUrl", what="no http(s) address", remedy=remedy))
    if url.username or url.password:
        remedy = f"Put the key into the environment variable {server.key_env}"
        faults.append(Fault(where=f"{where}.baseUrl", what="holds a user or password", remedy=remedy))
    if not server.model:
        faults.append(Fault(where=f"{where}.model", what="missing", remedy="Name the model as the server does"))
    key = environment.get(server.key_env, "").strip()
    if not key:
        what = f"the environment variable {server.key_env} is not set"
        remedy = "Set it to the server's key, or to any text if it needs none"
        faults.append(Fault(where=f"{where}.keyEnv", what=what, remedy=remedy))
    elif not (key.isascii() and key.isprintable()):
        what = f"the environment variable {server.key_env} holds characters that no key has"
        faults.append(Fault(where=f"{where}.keyEnv", what=what, remedy="Set it to the server's key, on one line"))
    return faults


@dataclass(frozen=True, kw_only=True)
class CallLimits:
    """How a server is asked; the Run file's sections say what each field means."""

    concurrency: int
    timeout_seconds: float
    max_retries: int
    deadline_seconds: float


@dataclass(kw_only=True)
class Caller:
    """Calls one server from many threads."""

    server: ChatServer
    limits: CallLimits
    key: str = field(repr=False)
    sleep: Callable[[float], object] | None = None
    """None: one that ends early when the caller is closed."""
    jitter: Callable[[], float] = random.random
    """In [0, 1): spreads the retries of calls that failed together."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    before_call: Callable[[], None] = lambda: None
    """Called before each call, repeated ones included; what it raises ends the asking."""
    pace: Pace = field(init=False, repr=False)
    _exchange: Exchange = field(init=False, repr=False)
    _closed: Event = field(default_factory=Event, init=False, repr=False)

    def __post_init__(self) -> None:
        most = self.limits.concurrency
        self.pace = Pace(most)
        self._exchange = Exchange(base_url=self.server.base_url, key=self.key, connections=most)

    def close(self) -> None:
        """End the calls and waits under way, for good; what is asked from now on is a failure."""
        self._closed.set()
        self.pace.close()
        self._exchange.close()

    def ask(
        self, request: Mapping[str, Any], read: Callable[[HttpAnswer, datetime], ReplyT | Failure]
    ) -> ReplyT | Failure:
        """Call until there is a reply, a failure that cannot pass, or no try or no time left.

        The request's time runs from its first call on, so that waiting for a turn costs it nothing. To be told that
        there are too many calls is no failure of this one: it costs time, not a try. `read` is told the time, too.
        """
        end: float | None = None
        failed = _STOPPED
        tries_left = self.limits.max_retries + 1
        for number in count():
            call = self.pace.begin()
            if call is None:
                return _STOPPED
            too_many = False
            try:
                start = self.clock()
                end = start + self.limits.deadline_seconds if end is None else end
                if start >= end:
                    return failed
                answered = self._try(request, read, min(self.limits.timeout_seconds, end - start))
                too_many = isinstance(answered, Failure) and answered.too_many
            finally:
                self.pace.end(call, too_many=too_many)
            tries_left -= not too_many
            if not isinstance(answered, Failure) or not answered.temporary or not tries_left:
                return answered
            failed = answered
            wait = self._wait_after(failed, number)
            if self.clock() + wait >= end:
                asked = f", asked to wait {wait:.0f} s" if failed.wait is not None else ""
                return Failure(reason=f"{failed.reason}{asked}; the sample's time is up")
            self._pause(wait)
        raise AssertionError("count() does not end")

    def _wait_after(self, failure: Failure, number: int) -> float:
        spread = 0.5 + self.jitter() / 2
        if failure.wait is not None:
            return max(failure.wait, _FIRST_WAIT * spread)
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(number, 10)) * spread

    def _pause(self, seconds: float) -> None:
        if self.sleep is None:
            self._closed.wait(seconds)
        else:
            self.sleep(seconds)

    def _try(
        self, request: Mapping[str, Any], read: Callable[[HttpAnswer, datetime], ReplyT | Failure], seconds: float
    ) -> ReplyT | Failure:
        self.before_call()
        try:
            answer = self._exchange.post(request, seconds=seconds)
        except NoAnswer as error:
            return Failure(reason=f"{UNAVAILABLE}: {str(error).replace(self.key, '***')}")
        return read(answer, self.now())
