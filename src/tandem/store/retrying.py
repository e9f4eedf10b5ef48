"""Waiting out what is temporary: exponential back-off with full jitter, within a budget."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tandem.errors import Fault, Unavailable

Answer = TypeVar("Answer")

QUIET_SECONDS = 3.0
"""So long is a server's absence nothing that anybody needs to hear of."""
SILENT_SECONDS = 30.0
"""Between two words about it, however many requests wait."""


def _say_nothing(_: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Retrying:
    """How often and how long to try again, with the clock, the sleep and the randomness to use."""

    attempts: int = 100
    """Calls in all, the first included: so many that the budget ends them, however small the waits are drawn."""
    first_seconds: float = 0.25
    """Upper bound of the first wait; it doubles with each further one."""
    longest_seconds: float = 20.0
    """Upper bound of any single wait."""
    budget_seconds: float = 120.0
    """No new attempt starts later than this after the first."""
    say: Callable[[str], None] = _say_nothing
    """Told in one line that a server is waited for, once that takes longer than QUIET_SECONDS."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random

    def call(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer or an error other than Unavailable.

        Raises Unavailable, with the last fault and the number of attempts, when the budget is spent.
        """
        began = self.clock()
        for attempt in range(1, self.attempts + 1):
            try:
                return ask()
            except Unavailable as error:
                wait = self.random() * min(self.longest_seconds, self.first_seconds * 2 ** (attempt - 1))
                spent = self.clock() - began
                if attempt == self.attempts or spent + wait > self.budget_seconds:
                    raise _given_up(error, attempt, spent) from error
                if spent + wait > QUIET_SECONDS:
                    fault, left = error.faults[0], self.budget_seconds - spent
                    self.say(f"{fault.where}: {fault.what}. It is asked again for up to {left:.0f} s more")
                self.sleep(wait)
        raise AssertionError(f"{self.attempts} attempts: at least one is needed")


PATIENT = Retrying()
"""What a store uses unless told otherwise."""


def seldom(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """Pass on the first line, and another one only SILENT_SECONDS later; for several threads."""
    lock = threading.Lock()
    last = -SILENT_SECONDS + clock()

    def pass_on(line: str) -> None:
        nonlocal last
        with lock:
            if clock() - last < SILENT_SECONDS:
                return
            last = clock()
        say(line)

    return pass_on


def _given_up(error: Unavailable, attempts: int, seconds: float) -> Unavailable:
    tried = "once" if attempts == 1 else f"{attempts} times in {seconds:.0f} s"
    return Unavailable(
        [Fault(where=fault.where, what=f"{fault.what} (tried {tried})", remedy=fault.remedy) for fault in error.faults]
    )
