"""Observe, plan, act: the same step for one machine and for a cluster, and the loop that brings a Run to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.control.plan import Commit, Finish, Observed, Start, Stop, Wait, plan
from tandem.control.stages import Stage
from tandem.spec import Desired

POLL_SECONDS = 0.5
"""How soon a request to stop is noticed."""


class Actor(Protocol):
    """What can start attempts and tell how they are."""

    def observe(self, stages: tuple[Stage, ...]) -> Observed:
        """What is committed, complete, running and ended right now."""
        ...

    def start(self, actions: Sequence[Start]) -> None:
        """Start attempts."""
        ...

    def stop(self, action: Stop) -> None:
        """Tell an attempt to save its work and end."""
        ...

    def commit(self, action: Commit) -> None:
        """Let a whole execution count."""
        ...


class Backend(Actor, Protocol):
    """An actor whose attempts can be waited for."""

    def wait(self, seconds: float) -> bool:
        """Wait at most this long; whether something changed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one look at a Run led to."""

    observed: Observed
    """What there was to see before anything was done."""
    finish: Finish | None = None
    """The end of the Run."""
    has_acted: bool = False
    """Whether something was done, so that it is worth looking again at once."""
    pause: float = float("inf")
    """Seconds until there is something to do even if nothing changes."""


def take_step(
    actor: Actor, stages: tuple[Stage, ...], *, desired: Desired, max_attempts: int, now: Callable[[], float]
) -> Step:
    """Observe, plan, and do what the plan says."""
    observed = actor.observe(stages)
    actions = plan(stages, desired=desired, max_attempts=max_attempts, observed=observed, now=now())
    starts = [action for action in actions if isinstance(action, Start)]
    pause = float("inf")
    for action in actions:
        match action:
            case Finish():
                return Step(observed=observed, finish=action)
            case Stop():
                actor.stop(action)
            case Commit():
                actor.commit(action)
            case Wait():
                pause = action.seconds
            case Start():
                continue
    if starts:
        actor.start(starts)
    has_acted = any(not isinstance(action, Wait) for action in actions)
    return Step(observed=observed, has_acted=has_acted, pause=pause)


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
        wanted = desired()
        step = take_step(backend, list_stages(), desired=wanted, max_attempts=max_attempts, now=now)
        if step.finish is not None:
            return step.finish
        if wanted is Desired.SUSPENDED and not step.has_acted and not step.observed.running:
            return None
        if step.has_acted:
            continue
        due = now() + step.pause
        while not backend.wait(min(POLL_SECONDS, max(0.0, due - now()))):
            if now() >= due or desired() is not wanted:
                break
