"""The demo's Run under 20 kills, on a folder and on a real S3 server, and without its server: `make kills`.

It takes long: pytest collects it only by its name. KILLS and SEED say how many kills, and which.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.demo_run import FILE, Finished, find_finished, give_workers, prepare_inputs, run_demo, run_under
from tests.e2e.desk import Desk
from tests.e2e.trials import STAGES, Trial, draw_kills, run_through, stop_while_writing
from tests.servers import Versitygw, versitygw_in

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED") or secrets.randbelow(10**6))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_inputs(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def undisturbed(inputs: Path) -> Finished:
    return run_demo(Desk(folder=inputs), str(inputs / "store"))


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Versitygw]:
    with versitygw_in(tmp_path) as running:
        running.server.client().create_bucket(Bucket="demo")
        for name, value in running.server.environment().items():
            monkeypatch.setenv(name, value)
        yield running


def survive(desk: Desk, undisturbed: Finished, trials: Sequence[Trial], url_of: Callable[[int], str]) -> None:
    """Do everything to Runs of the demo, each in a store of its own; each ends as the undisturbed one."""
    runs, _ = run_under(desk, give_workers(desk.folder), url_of, trials, tell)
    for finished in runs:
        assert finished.read_what_must_repeat() == undisturbed.read_what_must_repeat()


def tell(text: str) -> None:
    print(f"  {text}", flush=True)  # noqa: T201


def draw() -> list[Trial]:
    print(f"\nSEED={SEED} KILLS={KILLS}")  # noqa: T201
    kills = draw_kills(KILLS, SEED)
    assert len(STAGES) + 1 > KILLS or {kill.stage for kill in kills} == set(STAGES)
    return [*kills]


def test_kills_change_nothing_on_a_folder(inputs: Path, undisturbed: Finished) -> None:
    survive(Desk(folder=inputs), undisturbed, draw(), lambda number: str(inputs / f"killed-{number}"))


def test_kills_change_nothing_on_s3(inputs: Path, undisturbed: Finished, gateway: Versitygw) -> None:
    survive(Desk(folder=inputs), undisturbed, draw(), lambda number: f"s3://demo/killed-{number}")


def test_a_server_that_is_away_for_30_s_loses_nothing(inputs: Path, undisturbed: Finished, gateway: Versitygw) -> None:
    trials = stop_while_writing(gateway, "demo/away", 30.0)
    story = run_through(Desk(folder=inputs), FILE, "s3://demo/away", trials, tell)
    assert story.codes == [0]
    assert not story.left
    finished = find_finished(Desk(folder=inputs), "s3://demo/away", story.answer)
    assert finished.read_what_must_repeat() == undisturbed.read_what_must_repeat()


@pytest.mark.parametrize("stage", ["train", "generate", "score"])
def test_a_server_that_stays_away_ends_the_command_with_75_and_the_next_one_goes_on(
    stage: str, inputs: Path, undisturbed: Finished, gateway: Versitygw
) -> None:
    """With the patience of two minutes that everybody has."""
    infinitely = stop_while_writing(gateway, "demo/gone", float("inf"))
    story = run_through(
        Desk(folder=inputs), FILE, "s3://demo/gone", [trial for trial in infinitely if trial.stage == stage], tell
    )
    assert story.codes == [75, 0]
    finished = find_finished(Desk(folder=inputs), "s3://demo/gone", story.answer)
    assert finished.read_what_must_repeat() == undisturbed.read_what_must_repeat()
