"""Several attempts at once on this machine; each test's processes end when it says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem.control.local import LocalBackend
from tandem.control.loop import drive
from tandem.control.plan import Observed, Start, State, Stop, plan
from tandem.control.stages import Stage
from tandem.outcome import LINE_MARK
from tandem.spec import Desired, load_run
from tandem.store import Directory
from tandem.store.layout import RunPlace
from tests.e2e.small import RUN

GENERATE, SCORE = Stage(name="generate/b/0"), Stage(name="score/base/1234567890")
CHILD = f"""
import os, sys
print("begun", flush=True)
code = open(os.environ["PIPES"] + "/" + sys.argv[2]).read()
print('{LINE_MARK}{{"exit_code": ' + code + ', "code": "told"}}')
sys.exit(int(code))
"""


@dataclass
class Desk:
    """A backend whose attempts say `begun` and then wait to be told their exit code."""

    folder: Path
    said: list[tuple[str, str]] = field(default_factory=list)
    backend: LocalBackend = field(init=False)

    def __post_init__(self) -> None:
        for name in ("generate", "score"):
            os.mkfifo(self.folder / name)
        (self.folder / "run.yaml").write_text(RUN)
        self.backend = LocalBackend(
            store=Directory(self.folder / "store"),
            place=RunPlace(namespace="local", run_id="small-0123456789"),
            spec=load_run(self.folder / "run.yaml").run.spec,
            record_sha256="0" * 64,
            cache=self.folder / "cache",
            scratch=self.folder / "scratch",
            environment={**os.environ, "PIPES": str(self.folder)},
            now=lambda: 100.0,
            sleep=lambda seconds: None,
            say=lambda stage, line: self.said.append((stage, line)),
            command=(sys.executable, "-c", CHILD),
        )

    def start_both(self) -> None:
        for stage in (GENERATE, SCORE):
            self.backend.start([Start(stage=stage.name, number=1)])

    def end(self, kind: str, code: int) -> None:
        (self.folder / kind).write_text(str(code))

    def observe(self) -> Observed:
        return self.backend.observe((GENERATE, SCORE))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.backend.kill()


def states(observed: Observed) -> dict[str, State]:
    return {attempt.stage: attempt.state for attempt in observed.attempts}


def test_whichever_ends_is_noticed_while_the_other_runs_on(desk: Desk) -> None:
    desk.start_both()
    assert desk.backend.wait(0.01) is False
    desk.end("score", 75)
    assert desk.backend.wait(60) is True
    assert states(desk.observe()) == {SCORE.name: State.ENDED, GENERATE.name: State.RUNNING}
    desk.end("generate", 65)
    assert desk.backend.wait(60) is True
    outcomes = {attempt.stage: attempt.outcome for attempt in desk.observe().attempts}
    assert {stage: outcome and outcome.exit_code for stage, outcome in outcomes.items()} == {
        SCORE.name: 75,
        GENERATE.name: 65,
    }
    assert desk.observe().running == ()
    assert sorted(desk.said) == [(GENERATE.name, "begun"), (SCORE.name, "begun")]


def test_what_an_attempt_said_is_kept_unless_it_has_handed_in_a_log_itself(desk: Desk) -> None:
    desk.start_both()
    store, place = desk.backend.store, desk.backend.place
    handed_in = f"{place.execution(SCORE.name, desk.backend.running[SCORE.name].execution)}logs/score.log"
    store.put_if_absent(handed_in, b"more than it said")
    for kind in ("score", "generate"):
        desk.end(kind, 1)
        assert desk.backend.wait(60) is True
    logs = {entry.key: store.get(entry.key) for entry in store.list(place.prefix) if "/logs/" in entry.key}
    assert logs.pop(handed_in) == b"more than it said"
    ((key, body),) = logs.items()
    assert key.startswith(f"{place.attempts(GENERATE.name)}001/logs/001-")
    assert body == b"begun\n"


def test_a_stop_reaches_one_and_a_kill_all(desk: Desk) -> None:
    desk.start_both()
    desk.backend.stop(Stop(stage=SCORE.name, number=1, reason="deadline"))
    assert states(desk.observe()) == {GENERATE.name: State.RUNNING, SCORE.name: State.STOPPING}
    assert desk.backend.wait(60) is True
    assert states(desk.observe()) == {SCORE.name: State.ENDED, GENERATE.name: State.RUNNING}
    (running,) = desk.backend.running.values()
    desk.backend.kill()
    assert running.process.returncode < 0
    assert desk.backend.wait(60) is True


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_stages_of_a_kind_may_run_at_once_as_it_was_told(at_once: int, desk: Desk) -> None:
    desk.backend.at_once = at_once
    stages = tuple(Stage(name=f"generate/{name}/0") for name in ("a", "b", "c"))
    actions = plan(stages, desired=Desired.ACTIVE, max_attempts=1, observed=desk.backend.observe(stages), now=100.0)
    assert [action.stage for action in actions if isinstance(action, Start)] == [
        stage.name for stage in stages[:at_once]
    ]


def test_suspending_ends_everything_that_runs_and_the_drive(desk: Desk) -> None:
    asked: list[Observed] = []

    def desired() -> Desired:
        asked.append(desk.observe())
        begun = [line for _, line in desk.said if line == "begun"]
        return Desired.SUSPENDED if len(begun) == 2 else Desired.ACTIVE

    end = drive(desk.backend, lambda: (GENERATE, SCORE), desired=desired, max_attempts=3, now=lambda: 100.0)
    assert end is None
    assert {attempt.stage for attempt in desk.backend.ended} == {GENERATE.name, SCORE.name}
    assert desk.backend.running == {}
    assert max(len(observed.running) for observed in asked) == 2
