"""The end of a training that hangs: a thread that looks whether steps still end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

LENIENT = 3
"""Around the steps everything may take so many times as long: loading and compiling before the first one has ended,
the last uploads after the last one."""

_LOOKS = 20
"""Looks within the time that a step may take."""


@dataclass(kw_only=True)
class Watchdog:
    """Calls `end`, once, when no sign of life came for too long."""

    minutes: float | None
    """How long a step may take; None: for ever."""
    clock: Callable[[], float]
    """Seconds, from any start."""
    end: Callable[[float], None]
    """Called from the thread with the minutes that have passed."""
    _alive_at: float = field(init=False)
    _lenient: bool = field(default=True, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        self._alive_at = self.clock()

    def hear(self, *, lenient: bool = False) -> None:
        """A step, or as much as a step, is done; lenient: what comes next is none of the steps."""
        self._alive_at, self._lenient = self.clock(), lenient

    def look(self) -> None:
        """Call `end` if it is time."""
        if self.minutes is None or self._over.is_set():
            return
        silent = (self.clock() - self._alive_at) / 60
        if silent > self.minutes * (LENIENT if self._lenient else 1):
            self._over.set()
            self.end(silent)

    def start(self) -> None:
        """Look again and again until `stop`."""
        if self.minutes is not None:
            threading.Thread(
                target=self._watch, args=(self.minutes * 60 / _LOOKS,), name="watchdog", daemon=True
            ).start()

    def stop(self) -> None:
        """End the thread; `end` is not called any more."""
        self._over.set()

    def _watch(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            self.look()


def watch_nothing() -> Watchdog:
    """For a training that may take any time."""
    return Watchdog(minutes=None, clock=lambda: 0.0, end=lambda _: None)
