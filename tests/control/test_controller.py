"""The controller around the reconciler: it goes on after failures, and tells how it is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tandem.control.api import RUN, Busy, Kind
from tandem.control.health import serving
from tandem.errors import Fault
from tandem.outcome import DONE, Outcome
from tests.control.world import CRASH, NAMESPACE, SPEC, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


def read(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_is_ready_once_all_is_listed_and_the_store_answers(world: World) -> None:
    controller = world.controller
    with serving(controller.health, controller.metrics, host="127.0.0.1", port=0) as port:
        status, body = read(port, "/readyz")
        assert status == 503
        assert "watch of Run: has not been listed yet" in body
        assert "store: has not been asked yet" in body
        world.settle()
        controller.check_store()
        assert read(port, "/readyz") == (200, "ok\n")
        assert read(port, "/healthz") == (200, "ok\n")
        world.seconds += 1000
        assert read(port, "/healthz") == (503, "clock\n")
        assert read(port, "/nothing")[0] == 404


def test_metrics_count_runs_by_phase_and_what_happened(world: World) -> None:
    world.apply()
    world.apply("second", {**SPEC, "maxAttempts": 1, "desired": "Suspended"})
    world.play()
    world.settle()
    with serving(world.controller.health, world.controller.metrics, host="127.0.0.1", port=0) as port:
        _, text = read(port, "/metrics")
    assert 'tandem_runs{phase="Succeeded"} 1.0' in text
    assert 'tandem_runs{phase="Suspended"} 1.0' in text
    assert 'tandem_happenings_total{reason="AttemptStarted"} 3.0' in text
    assert 'tandem_looks_total{outcome="done"}' in text


def test_a_look_that_fails_is_repeated_with_pauses_that_grow_and_the_others_go_on(world: World) -> None:
    world.apply()
    world.apply("second")

    def broken(verb: str, kind: Kind, name: str) -> None:
        if verb == "create" and name.startswith("demo-"):
            raise RuntimeError("a fault of ours")

    world.api.before = broken
    world.settle()
    assert [job["metadata"]["name"] for job in world.jobs()] == [f"{world.place('second').run_id}-t-1"]
    assert world.controller.failures == {"demo": 1}
    world.pass_time(1)
    world.pass_time(2)
    assert world.controller.failures == {"demo": 3}
    assert any("a fault of ours" in str(values.get("error")) for _, values in world.log.said)
    world.api.before = lambda *_: None
    world.pass_time(60)
    assert world.controller.failures == {}
    assert len(world.jobs()) == 2


def test_nothing_is_looked_at_before_all_is_listed(world: World) -> None:
    world.apply()
    world.controller.refresh(world.controller.mirrors.runs)
    assert world.controller.work_once() is False


def test_a_watch_that_fails_is_told_and_counted(world: World) -> None:
    def away(*_: Any) -> None:
        raise Busy(Fault(where="runs", what="the cluster cannot be reached", remedy="Wait."))

    world.api.before = away
    assert world.controller.refresh(world.controller.mirrors.runs) > 0
    assert "watch of Run: runs: the cluster cannot be reached. Wait." in world.controller.health.find_trouble()


def test_every_line_of_the_log_says_which_run_it_is_about(world: World) -> None:
    world.apply()
    world.play(lambda _: CRASH)
    about_runs = [values for _, values in world.log.said if "reason" in values]
    assert about_runs
    assert all(values["run"] == "demo" for values in about_runs)
    attempts = [values for values in about_runs if values["reason"].startswith("Attempt")]
    assert {values["attempt"] for values in attempts} == {1, 2, 3}
    assert {values["run_id"] for values in attempts} == {world.place().run_id}


def test_lines_about_an_execution_say_which_attempt_wrote_it(world: World) -> None:
    world.apply()
    tries: dict[str, int] = {}

    def outcome(stage: str) -> Outcome:
        tries[stage] = tries.get(stage, 0) + 1
        return CRASH if stage == "train" and tries[stage] <= 2 else DONE  # both pods of the first attempt

    assert world.play(outcome) == "Succeeded"
    committed = {values["stage"]: values.get("attempt") for _, values in world.log.said if is_commit(values)}
    assert committed.pop("train") == 2
    assert len(committed) == 3
    assert set(committed.values()) == {1}


def is_commit(values: dict[str, Any]) -> bool:
    return values.get("reason") == "Committed"


def test_a_controller_that_is_told_to_stop_ends_its_threads(world: World) -> None:
    world.apply()
    world.controller.now = lambda: world.seconds
    world.settle()
    world.controller.stop()
    world.controller.run()
    assert world.controller.stopping.is_set()


def test_a_run_that_was_deleted_and_made_again_between_two_looks_is_both(world: World) -> None:
    world.apply()
    world.settle()
    first = world.run()["metadata"]["uid"]
    world.api.delete(RUN, NAMESPACE, "demo")
    world.apply()
    world.settle()
    assert world.read(world.place().ended(first))["outcome"]["code"] == "deleted"
    assert world.status()["phase"] == "Pending"
    assert json.loads(world.store.get(world.place().asked(world.run()["metadata"]["uid"])))["name"] == "demo"
