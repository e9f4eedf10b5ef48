"""Observe, plan, act, until the Run has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tandem.control.plan import Commit, Finish, Observed, Start, Stop, Wait, plan
from tandem.control.stages import Stage
from tandem.spec import Desired

POLL_SECONDS = 0.5
"""How soon a request to stop is noticed."""


class Backend(Protocol):
    """What can start attempts and tell how they are."""

    def observe(self, stages: tuple[Stage, ...]) -> Observed:
        """What is committed, complete, running and ended right now."""
        ...

    def start(self, action: Start) -> None:
        """Start an attempt."""
        ...

    def stop(self, action: Stop) -> None:
        """Tell an attempt to save its work and end."""
        ...

    def commit(self, action: Commit) -> None:
        """Let a whole execution count."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait at most this long; whether something changed."""
        ...


def drive(
    backend: Backend,
    list_stages: Callable[[], tuple[Stage, ...]],
    *,
    desired: Callable[[], Desired],
    max_attempts: int,
    now: Callable[[], float],
) -> Finish | None:
    """Bring a Run to its end; None if it was suspended and everything has stopped.

    `list_stages` is asked each time, for training decides which checkpoints there are to evaluate.
    """
    while True:
        stages = list_stages()
        wanted = desired()
        observed = backend.observe(stages)
        actions = plan(stages, desired=wanted, max_attempts=max_attempts, observed=observed, now=now())
        pause = float("inf")
        for action in actions:
            match action:
                case Finish():
                    return action
                case Start():
                    backend.start(action)
                case Stop():
                    backend.stop(action)
                case Commit():
                    backend.commit(action)
                case Wait():
                    pause = action.seconds
        if not actions and wanted is Desired.SUSPENDED and not observed.running:
            return None
        if actions and not any(isinstance(action, Wait) for action in actions):
            continue
        due = now() + pause
        while not backend.wait(min(POLL_SECONDS, max(0.0, due - now()))):
            if now() >= due or desired() is not wanted:
                break
