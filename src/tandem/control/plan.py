"""What to do next, as a pure function: every rule about order, retries, deadlines and stopping is here.

Both backends (subprocesses on one machine, Jobs in a cluster) observe, ask `plan`, and do what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.control.stages import Kind, Stage, kind_of
from tandem.outcome import Outcome, classify
from tandem.spec import Desired

LONGEST_PAUSE = 60.0
"""Seconds."""


class State(StrEnum):
    """Where an attempt is. Only an attempt that is known to be gone has ended."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Phase(StrEnum):
    """How a Run ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at one stage."""

    stage: str
    number: int
    state: State
    started_at: float
    """Seconds since the epoch."""
    ended_at: float | None = None
    outcome: Outcome | None = None
    """How it ended; None while it has not."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All that a plan depends on, as it is right now."""

    committed: frozenset[str] = frozenset()
    complete: Mapping[str, str] = field(default_factory=dict)
    """Stage -> an execution that wrote its whole manifest but is not committed yet."""
    attempts: tuple[Attempt, ...] = ()
    next_number: Mapping[str, int] = field(default_factory=dict)
    """Stage -> number of its next attempt; 1 where nothing is said."""
    slots: Mapping[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 1))
    """Attempts of each kind that may run at once; none of a kind that is not named."""

    @property
    def running(self) -> tuple[Attempt, ...]:
        """Attempts that are not known to have ended."""
        return tuple(attempt for attempt in self.attempts if attempt.state is not State.ENDED)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start an attempt."""

    stage: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Tell an attempt to save its work and end."""

    stage: str
    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Verify an execution's manifest and let it count."""

    stage: str
    execution: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do for this long unless something changes."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The Run has ended."""

    phase: Phase
    stage: str | None = None
    """The stage that failed."""
    outcome: Outcome | None = None
    """How its last attempt ended."""


Action = Start | Stop | Commit | Wait | Finish


def plan(
    stages: tuple[Stage, ...], *, desired: Desired, max_attempts: int, observed: Observed, now: float
) -> list[Action]:
    """Everything that can be done right now. An empty list means: wait for a change.

    Promises: at most `max_attempts` attempts of a stage that count as failures; never a second attempt of a
    stage before the first is known to have ended; never more attempts of a kind at once than it has slots; a
    committed stage is never repeated; with finitely many stops it always comes to Finish.
    """
    live = observed.running
    if desired is not Desired.ACTIVE:
        stops: list[Action] = [
            Stop(stage=attempt.stage, number=attempt.number, reason=desired.value.lower())
            for attempt in live
            if attempt.state is State.RUNNING
        ]
        if desired is Desired.CANCELLED and not live:
            return [Finish(phase=Phase.CANCELLED)]
        return stops
    commits: list[Action] = [
        Commit(stage=stage.name, execution=observed.complete[stage.name])
        for stage in stages
        if stage.name in observed.complete and stage.name not in observed.committed
    ]
    if commits:
        return commits
    return _advance(stages, max_attempts=max_attempts, observed=observed, now=now, live=live)


def _advance(
    stages: tuple[Stage, ...], *, max_attempts: int, observed: Observed, now: float, live: tuple[Attempt, ...]
) -> list[Action]:
    actions: list[Action] = []
    pauses: list[float] = []
    failed: dict[str, Outcome] = {}
    free = Counter(observed.slots)
    free.subtract(kind_of(attempt.stage) for attempt in live)
    for stage in stages:
        if stage.name in observed.committed or any(need in failed for need in stage.needs):
            continue
        attempts = sorted((a for a in observed.attempts if a.stage == stage.name), key=lambda a: a.number)
        running = [attempt for attempt in attempts if attempt.state is not State.ENDED]
        left = _time_left(stage, attempts, now)
        if running:
            if left is not None and left <= 0 and running[0].state is State.RUNNING:
                actions.append(Stop(stage=stage.name, number=running[0].number, reason="deadline"))
            elif left is not None and left > 0:
                pauses.append(left)
            continue
        failure = _failure(attempts, max_attempts, left)
        if failure is not None:
            failed[stage.name] = failure
            continue
        if not all(need in observed.committed for need in stage.needs):
            continue
        pause = _pause(attempts, now)
        if pause > 0:
            pauses.append(pause)
        elif free[kind_of(stage.name)] > 0:
            free[kind_of(stage.name)] -= 1
            actions.append(Start(stage=stage.name, number=observed.next_number.get(stage.name, 1)))
    if actions:
        return actions
    if live or pauses:
        return [Wait(seconds=min(pauses))] if pauses else []
    if failed:
        name, outcome = next(iter(failed.items()))
        return [Finish(phase=Phase.FAILED, stage=name, outcome=outcome)]
    return [Finish(phase=Phase.SUCCEEDED)]


def _time_left(stage: Stage, attempts: list[Attempt], now: float) -> float | None:
    if stage.deadline_seconds is None:
        return None
    used = sum((now if a.ended_at is None else a.ended_at) - a.started_at for a in attempts)
    return stage.deadline_seconds - used


def _failure(attempts: list[Attempt], max_attempts: int, time_left: float | None) -> Outcome | None:
    """The outcome that ends the stage for good, or None if it may be tried (again)."""
    failures = _failures(attempts)
    if failures and (classify(failures[-1]) == "permanent" or len(failures) >= max_attempts):
        return failures[-1]
    if attempts and time_left is not None and time_left <= 0:
        return Outcome(
            exit_code=1,
            code="deadline",
            message="the stage ran longer than its deadlineMinutes",
            remedy="Raise deadlineMinutes and submit the Run again; it goes on from the newest checkpoint.",
        )
    return None


def _failures(attempts: list[Attempt]) -> list[Outcome]:
    return [a.outcome for a in attempts if a.outcome is not None and classify(a.outcome) != "stopped"]


def _pause(attempts: list[Attempt], now: float) -> float:
    """Seconds until the next attempt may start: 1, 2, 4, ... after each failure, none after a stop."""
    if not attempts:
        return 0.0
    last = attempts[-1]
    if last.outcome is None or last.ended_at is None or classify(last.outcome) == "stopped":
        return 0.0
    return last.ended_at + min(LONGEST_PAUSE, 2.0 ** (len(_failures(attempts)) - 1)) - now
