"""The plan's promises, from any state and any sequence of failures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.control.plan import (
    Action,
    Attempt,
    Commit,
    Finish,
    Observed,
    Phase,
    Start,
    State,
    Stop,
    Wait,
    plan,
)
from tandem.control.stages import Stage
from tandem.outcome import DONE, Outcome
from tandem.spec import Desired

TRAIN = Stage(name="train")
GENERATE = Stage(name="generate/a/0", needs=("train",))
SCORE = Stage(name="score/a/1234567890", needs=("generate/a/0",))
BASE = Stage(name="generate/base/0")
STAGES = (TRAIN, GENERATE, SCORE, BASE)

PERMANENT = Outcome(exit_code=65, code="bad-data")
TEMPORARY = Outcome(exit_code=75, code="unavailable")
STOPPED = Outcome(exit_code=143, code="stopped")
MEMORY = Outcome(exit_code=1, code="out-of-memory")
CRASH = Outcome(exit_code=1, code="unexpected")
FAILURES = (PERMANENT, TEMPORARY, STOPPED, MEMORY, CRASH)


def ask(
    observed: Observed,
    *,
    stages: tuple[Stage, ...] = STAGES,
    max_attempts: int = 3,
    now: float = 100.0,
    desired: Desired = Desired.ACTIVE,
) -> list[Action]:
    return plan(stages, desired=desired, max_attempts=max_attempts, observed=observed, now=now)


def ended(stage: str, number: int, outcome: Outcome, at: float = 50.0) -> Attempt:
    return Attempt(stage=stage, number=number, state=State.ENDED, started_at=at - 10, ended_at=at, outcome=outcome)


def running(stage: str, number: int = 1, since: float = 90.0, state: State = State.RUNNING) -> Attempt:
    return Attempt(stage=stage, number=number, state=state, started_at=since)


def test_the_first_stage_that_needs_nothing_starts_first() -> None:
    assert ask(Observed()) == [Start(stage="train", number=1)]


def test_independent_stages_start_together_where_there_is_room() -> None:
    assert ask(Observed(slots=5)) == [Start(stage="train", number=1), Start(stage="generate/base/0", number=1)]


def test_a_stage_waits_for_what_it_needs_to_be_committed() -> None:
    observed = Observed(committed=frozenset({"train"}), slots=1)
    assert ask(observed) == [Start(stage="generate/a/0", number=1)]


def test_a_whole_execution_is_committed_and_not_made_again() -> None:
    observed = Observed(complete={"train": "001-ab"}, attempts=(ended("train", 1, DONE),))
    assert ask(observed) == [Commit(stage="train", execution="001-ab")]


def test_a_permanent_failure_is_not_tried_again_but_the_rest_of_the_run_goes_on() -> None:
    observed = Observed(attempts=(ended("train", 1, PERMANENT),))
    assert ask(observed) == [Start(stage="generate/base/0", number=1)]
    observed = replace(observed, committed=frozenset({"generate/base/0"}))
    assert ask(observed) == [Finish(phase=Phase.FAILED, stage="train", outcome=PERMANENT)]


def test_a_temporary_failure_is_tried_again_after_a_pause_that_grows() -> None:
    first = Observed(attempts=(ended("train", 1, TEMPORARY, at=99.5),), next_number={"train": 2})
    assert ask(first, stages=(TRAIN,)) == [Wait(seconds=0.5)]
    assert ask(first, stages=(TRAIN,), now=101) == [Start(stage="train", number=2)]
    second = replace(first, attempts=(*first.attempts, ended("train", 2, TEMPORARY, at=99.5)))
    assert ask(second, stages=(TRAIN,)) == [Wait(seconds=1.5)]


def test_an_attempt_that_was_told_to_stop_does_not_count() -> None:
    stops = tuple(ended("train", number, STOPPED) for number in range(1, 9))
    observed = Observed(attempts=stops, next_number={"train": 9})
    assert ask(observed, stages=(TRAIN,)) == [Start(stage="train", number=9)]


def test_a_stage_over_its_deadline_is_stopped_and_then_failed() -> None:
    stage = Stage(name="train", deadline_seconds=30)
    late = Observed(attempts=(running("train", since=60.0),))
    assert ask(late, stages=(stage,)) == [Stop(stage="train", number=1, reason="deadline")]
    stopping = Observed(attempts=(running("train", since=60.0, state=State.STOPPING),))
    assert ask(stopping, stages=(stage,)) == []
    gone = Observed(attempts=(replace(ended("train", 1, STOPPED, at=100.0), started_at=60.0),))
    (action,) = ask(gone, stages=(stage,))
    assert isinstance(action, Finish)
    assert action.outcome is not None
    assert action.outcome.code == "deadline"


def test_the_deadline_counts_the_running_time_of_all_attempts() -> None:
    stage = Stage(name="train", deadline_seconds=30)
    observed = Observed(attempts=(ended("train", 1, CRASH, at=50.0), running("train", 2, since=95.0)))
    assert ask(observed, stages=(stage,)) == [Wait(seconds=15.0)]


def test_suspending_stops_what_runs_and_starts_nothing() -> None:
    observed = Observed(attempts=(running("train"),))
    assert ask(observed, desired=Desired.SUSPENDED) == [Stop(stage="train", number=1, reason="suspended")]
    assert ask(Observed(), desired=Desired.SUSPENDED) == []


def test_cancelling_ends_once_nothing_runs() -> None:
    observed = Observed(attempts=(running("train", state=State.STOPPING),))
    assert ask(observed, desired=Desired.CANCELLED) == []
    assert ask(Observed(), desired=Desired.CANCELLED) == [Finish(phase=Phase.CANCELLED)]


@dataclass
class World:
    """A backend in which every attempt ends as a script says; DONE once the script is over."""

    script: list[Outcome]
    slots: int
    stages: tuple[Stage, ...] = STAGES
    committed: set[str] = field(default_factory=set)
    complete: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    started: list[Start] = field(default_factory=list)
    now: float = 0.0

    def observe(self) -> Observed:
        return Observed(
            committed=frozenset(self.committed),
            complete=dict(self.complete),
            attempts=tuple(self.attempts),
            next_number={
                stage.name: 1 + max((a.number for a in self.attempts if a.stage == stage.name), default=0)
                for stage in self.stages
            },
            slots=self.slots,
        )

    def start(self, action: Start) -> None:
        live = [a for a in self.attempts if a.state is not State.ENDED]
        assert not any(a.stage == action.stage for a in live), "a second attempt before the first has ended"
        assert action.stage not in self.committed, "a committed stage was repeated"
        assert len(live) < self.slots
        needs = next(stage.needs for stage in self.stages if stage.name == action.stage)
        assert self.committed.issuperset(needs)
        self.started.append(action)
        self.attempts.append(running(action.stage, action.number, since=self.now))

    def end_one(self) -> None:
        for index, attempt in enumerate(self.attempts):
            if attempt.state is not State.ENDED:
                outcome = self.script.pop(0) if self.script else DONE
                self.now += 1.0
                self.attempts[index] = replace(attempt, state=State.ENDED, ended_at=self.now, outcome=outcome)
                if outcome == DONE:
                    self.complete[attempt.stage] = f"{attempt.number:03d}"
                return


def run_to_the_end(world: World, max_attempts: int) -> Finish:
    for _ in range(500):
        actions = plan(
            world.stages, desired=Desired.ACTIVE, max_attempts=max_attempts, observed=world.observe(), now=world.now
        )
        for action in actions:
            match action:
                case Finish():
                    return action
                case Start():
                    world.start(action)
                case Commit():
                    world.committed.add(action.stage)
                case Wait():
                    world.now += action.seconds
                case Stop():
                    raise AssertionError("nothing has a deadline here")
        if not actions:
            world.end_one()
    raise AssertionError("the Run did not end")


@given(st.lists(st.sampled_from(FAILURES), max_size=30), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=300)
def test_every_run_ends_within_its_attempts(script: list[Outcome], slots: int, max_attempts: int) -> None:
    world = World(script=list(script), slots=slots)
    end = run_to_the_end(world, max_attempts)
    for stage in world.stages:
        outcomes = [a.outcome for a in world.attempts if a.stage == stage.name]
        counted = [outcome for outcome in outcomes if outcome not in (STOPPED, DONE)]
        assert len(counted) <= max_attempts
        assert PERMANENT not in outcomes[:-1], "a permanent failure was tried again"
    if end.phase is Phase.SUCCEEDED:
        assert world.committed == {stage.name for stage in world.stages}
    else:
        assert end.outcome is not None
        assert end.outcome in FAILURES


@given(st.lists(st.sampled_from((TEMPORARY, STOPPED, CRASH)), max_size=2))
def test_a_run_succeeds_when_failures_pass_and_attempts_are_left(script: list[Outcome]) -> None:
    assert run_to_the_end(World(script=list(script), slots=2), max_attempts=3).phase is Phase.SUCCEEDED
