"""The plan's promises, from any state and any sequence of failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

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
from tandem.control.stages import Kind, Stage, kind_of
from tandem.outcome import DONE, Outcome
from tandem.spec import Desired

TRAIN = Stage(name="train")
GENERATE = Stage(name="generate/a/0", needs=("train",))
SCORE = Stage(name="score/a/1234567890", needs=("generate/a/0",))
BASE = Stage(name="generate/base/0")
SCORE_BASE = Stage(name="score/base/1234567890", needs=("generate/base/0",))
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
    assert ask(Observed(slots={Kind.COMPUTE: 5})) == [
        Start(stage="train", number=1),
        Start(stage="generate/base/0", number=1),
    ]


def test_a_stage_waits_for_what_it_needs_to_be_committed() -> None:
    observed = Observed(committed=frozenset({"train"}))
    assert ask(observed) == [Start(stage="generate/a/0", number=1)]


def test_texts_are_scored_while_others_are_generated() -> None:
    stages = (BASE, SCORE_BASE, TRAIN, GENERATE, SCORE)
    observed = Observed(committed=frozenset({"generate/base/0"}))
    starts = [Start(stage="score/base/1234567890", number=1), Start(stage="train", number=1)]
    assert ask(observed, stages=stages) == starts
    scoring = replace(observed, attempts=(running("score/base/1234567890"),))
    assert ask(scoring, stages=stages) == starts[1:]
    training = replace(observed, attempts=(running("train"),))
    assert ask(training, stages=stages) == starts[:1]
    both = replace(observed, attempts=(running("train"), running("score/base/1234567890")))
    assert ask(both, stages=stages) == []


def test_there_is_room_only_for_kinds_that_have_slots() -> None:
    observed = Observed(committed=frozenset({"generate/base/0"}), slots={Kind.COMPUTE: 2})
    assert ask(observed, stages=(BASE, SCORE_BASE, TRAIN)) == [Start(stage="train", number=1)]


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
    observed = Observed(attempts=(running("train"), running("score/base/1234567890", 2)))
    assert ask(observed, desired=Desired.SUSPENDED) == [
        Stop(stage="train", number=1, reason="suspended"),
        Stop(stage="score/base/1234567890", number=2, reason="suspended"),
    ]
    assert ask(Observed(), desired=Desired.SUSPENDED) == []


def test_cancelling_ends_once_nothing_runs() -> None:
    observed = Observed(attempts=(running("train", state=State.STOPPING),))
    assert ask(observed, desired=Desired.CANCELLED) == []
    assert ask(Observed(), desired=Desired.CANCELLED) == [Finish(phase=Phase.CANCELLED)]


@dataclass
class World:
    """A backend in which every attempt ends as a script says; DONE once the script is over."""

    script: list[Outcome]
    slots: dict[Kind, int]
    choose: Callable[[list[int]], int] = min
    """Which of the running attempts ends next."""
    stages: tuple[Stage, ...] = (*STAGES, SCORE_BASE)
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
        alike = [a for a in live if kind_of(a.stage) is kind_of(action.stage)]
        assert len(alike) < self.slots[kind_of(action.stage)], "more at once than there is room for"
        needs = next(stage.needs for stage in self.stages if stage.name == action.stage)
        assert self.committed.issuperset(needs)
        self.started.append(action)
        self.attempts.append(running(action.stage, action.number, since=self.now))

    def end_one(self) -> None:
        index = self.choose([n for n, attempt in enumerate(self.attempts) if attempt.state is not State.ENDED])
        attempt = self.attempts[index]
        outcome = self.script.pop(0) if self.script else DONE
        self.now += 1.0
        self.attempts[index] = replace(attempt, state=State.ENDED, ended_at=self.now, outcome=outcome)
        if outcome == DONE:
            self.complete[attempt.stage] = f"{attempt.number:03d}"

    def require_nothing_idle(self) -> None:
        """While the world waits for an attempt to end, no stage that could run waits for room of another kind."""
        live = [a.stage for a in self.attempts if a.state is not State.ENDED]
        for stage in self.stages:
            last = next((a for a in reversed(self.attempts) if a.stage == stage.name), None)
            fresh = last is None and stage.name not in self.committed
            room = sum(kind_of(name) is kind_of(stage.name) for name in live) < self.slots[kind_of(stage.name)]
            assert not (fresh and room and self.committed.issuperset(stage.needs)), f"{stage.name} could run"


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
            world.require_nothing_idle()
            world.end_one()
    raise AssertionError("the Run did not end")


rooms = st.fixed_dictionaries({kind: st.integers(1, 3) for kind in Kind})


@given(
    st.lists(st.sampled_from(FAILURES), max_size=30),
    rooms,
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
@settings(max_examples=300)
def test_every_run_ends_within_its_attempts_and_its_room(
    script: list[Outcome], slots: dict[Kind, int], random: Random, max_attempts: int
) -> None:
    world = World(script=list(script), slots=slots, choose=random.choice)
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
    world = World(script=list(script), slots=dict.fromkeys(Kind, 1))
    assert run_to_the_end(world, max_attempts=3).phase is Phase.SUCCEEDED
