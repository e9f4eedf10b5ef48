"""A Run in a cluster from its object to its end, whatever breaks on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tandem.control.api import EVENT, JOB, POD, PYTORCHJOB, RUN, Forbidden, Kind, Object, Refused
from tandem.control.collect import MOST_TRIES
from tandem.control.fake import FakeApi
from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.outcome import DONE
from tests.control import profiles
from tests.control.profiles import write_profiles
from tests.control.world import CRASH, NAMESPACE, PERMANENT, SPEC, STOPPED, World

SCORE_ONLY: dict[str, Any] = {
    "model": {"source": "s3://bucket/inputs/base"},
    "evals": [{"name": "base", "of": "base", "data": "s3://bucket/held.json", "tiles": {"max": 2}}],
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


def reasons(world: World) -> list[str]:
    return [values["reason"] for _, values in world.log.said if "reason" in values]


def test_a_run_trains_generates_scores_and_leaves_nothing_but_the_store(world: World) -> None:
    world.apply()
    world.settle()
    assert world.job_names() == ["t-1"]
    assert world.play() == "Succeeded"
    assert world.jobs() == []
    status = world.status()
    assert status["runId"] == world.place().run_id
    assert status["figures"] == "adapter 0.500"
    assert status["result"] == f"{world.store.url}/{world.place().prefix}"
    finished = next(one for one in status["conditions"] if one["type"] == "Finished")
    assert (finished["status"], finished["reason"]) == ("True", "Succeeded")


def test_logs_of_all_pods_and_how_each_ended_are_in_the_store_before_the_job_is_gone(world: World) -> None:
    world.apply()
    world.settle()
    world.start_pods()
    for pod in world.pods("t-1"):
        world.end_pod(pod, log=b"I am " + pod["metadata"]["name"].encode())
    world.end_jobs()
    deleted_at: list[bool] = []

    def look(verb: str, kind: Kind, name: str) -> None:
        if (verb, kind) == ("delete", PYTORCHJOB):
            deleted_at.append(world.read(world.place().attempt_end("train", 1)) is not None)

    world.api.before = look
    world.settle()
    assert deleted_at
    assert all(deleted_at)
    record = world.read(world.place().attempt_end("train", 1))
    assert [pod["name"].rsplit("-", 2)[1] for pod in record["pods"]] == ["master", "worker"]
    for pod in record["pods"]:
        assert world.store.get(pod["log"]) == b"I am " + pod["name"].encode()
        assert pod["image_id"].startswith("registry.example/tandem@sha256:")
        assert (pod["exit_code"], pod["outcome"]["code"]) == (0, "done")


def test_shards_share_one_indexed_job_and_only_failed_ones_are_made_again(world: World) -> None:
    world.apply()
    first: dict[str, int] = {}

    def outcome(stage: str) -> Any:
        first[stage] = first.get(stage, 0) + 1
        return CRASH if stage == "generate/adapter/1" and first[stage] == 1 else DONE

    seen: list[tuple[str, int, str]] = []

    def look(verb: str, kind: Kind, name: str) -> None:
        if (verb, kind) == ("delete", JOB):
            job = world.api._find(JOB, NAMESPACE, name)
            environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
            stage = next(entry["value"] for entry in environment if entry["name"] == "STAGE")
            seen.append((name.split("-", 2)[2], job["spec"].get("completions", 1), stage.rpartition("/")[0]))

    world.api.before = look
    assert world.play(outcome) == "Succeeded"
    assert list(dict.fromkeys(seen))[:2] == [("g0-1", 2, "generate/adapter"), ("g0-2", 1, "generate/adapter")]
    assert first == {"train": 2, "generate/adapter/0": 1, "generate/adapter/1": 2} | {
        stage: 1 for stage in first if stage.startswith("score/")
    }


def test_a_permanent_failure_ends_the_run_with_its_reason_and_exit_code(world: World) -> None:
    world.apply()
    assert world.play(lambda _: PERMANENT) == "Failed"
    status = world.status()
    assert status["message"] == "train: the data is wrong (exit code 65)"
    assert status["remedy"] == "Mend it."
    assert status["attempt"] == {
        "stage": "train",
        "number": 1,
        "job": f"{world.place().run_id}-t-1",
        "startedAt": status["attempt"]["startedAt"],
    }


def test_a_stage_is_tried_as_often_as_the_run_says_and_then_failed(world: World) -> None:
    world.apply(spec={**SPEC, "maxAttempts": 2})
    assert world.play(lambda _: CRASH) == "Failed"
    assert sum(1 for verb, plural, _ in world.api.calls if (verb, plural) == ("create", "pytorchjobs")) == 3
    place = world.place(spec={**SPEC, "maxAttempts": 2})
    assert world.read(place.attempt_end("train", 2))["outcome"]["message"] == "it broke"


def test_an_attempt_ends_by_the_strongest_of_its_pods(world: World) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.end_pod(master, CRASH)
    world.end_pod(worker, PERMANENT)
    world.end_jobs()
    world.settle()
    assert world.read(world.place().attempt_end("train", 1))["outcome"]["exit_code"] == 65


def test_suspending_lets_pods_save_keeps_their_last_words_and_does_not_count(world: World) -> None:
    world.apply(spec={**SPEC, "maxAttempts": 1})
    place = world.place(spec={**SPEC, "maxAttempts": 1})
    world.settle()
    world.start_pods()
    world.settle()
    assert world.status()["phase"] == "Running"
    world.want("Suspended")
    world.settle()
    assert "saves its work" in world.status()["message"]
    (job,) = world.jobs()
    assert "deletionTimestamp" in job["metadata"]
    world.end_stopped()
    world.settle()
    assert world.jobs() == []
    assert world.status()["phase"] == "Suspended"
    record = world.read(place.attempt_end("train", 1))
    assert record["outcome"]["code"] == "stopped"
    assert all(world.store.get(pod["log"]) for pod in record["pods"])
    world.want("Active")
    assert world.play() == "Succeeded"
    assert world.read(place.attempt_end("train", 2))["outcome"]["code"] == "done"


def test_cancelling_stops_what_runs_and_is_the_end(world: World) -> None:
    world.apply()
    world.settle()
    world.start_pods()
    world.want("Cancelled")
    world.settle()
    assert world.status()["phase"] != "Cancelled"
    world.end_stopped()
    world.settle()
    assert world.status()["phase"] == "Cancelled"
    assert world.jobs() == []
    assert world.read(world.place().ended(world.run()["metadata"]["uid"]))["phase"] == "Cancelled"


def test_nothing_starts_for_a_run_that_is_suspended_from_the_start(world: World) -> None:
    world.apply(spec={**SPEC, "desired": "Suspended"})
    world.settle()
    assert world.jobs() == []
    assert world.status()["phase"] == "Suspended"


def test_the_deadline_counts_running_time_and_not_time_in_the_queue(world: World) -> None:
    spec = copy.deepcopy(SPEC)
    spec["train"]["deadlineMinutes"] = 10
    spec["evals"] = []
    world.apply(spec=spec)
    world.settle()
    world.pass_time(3600)
    assert world.job_names() == ["t-1"]
    world.start_pods()
    world.pass_time(599)
    assert "deletionTimestamp" not in world.jobs()[0]["metadata"]
    world.pass_time(2)
    assert "deletionTimestamp" in world.jobs()[0]["metadata"]
    world.end_stopped()
    world.settle()
    assert world.status()["phase"] == "Failed"
    assert "deadlineMinutes" in world.status()["message"]


def test_a_controller_killed_between_making_a_job_and_noting_it_makes_no_second_one(world: World) -> None:
    world.apply()
    put = world.store.put_if_absent

    def die(key: str, body: bytes) -> None:
        if key.endswith("start.json"):
            raise KeyboardInterrupt
        put(key, body)

    world.store.put_if_absent = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.settle()
    world.store.put_if_absent = put  # type: ignore[method-assign]
    assert world.job_names() == ["t-1"]
    assert world.read(world.place().attempt_start("train", 1)) is None
    world.restart()
    world.settle()
    assert world.job_names() == ["t-1"]
    assert world.read(world.place().attempt_start("train", 1))["job_uid"] == world.jobs()[0]["metadata"]["uid"]
    assert world.play() == "Succeeded"
    assert world.pods_made == 5


def test_a_controller_that_has_not_seen_its_own_job_yet_makes_no_second_one(world: World) -> None:
    world.apply()
    world.settle()
    world.controller.mirrors.pytorchjobs.objects.clear()
    world.controller.mirrors.pytorchjobs._by_key.clear()
    world.pass_time(60)
    assert world.job_names() == ["t-1"]


def test_a_job_that_someone_deleted_is_an_attempt_that_was_lost(world: World) -> None:
    world.apply()
    world.settle()
    world.api.delete(PYTORCHJOB, NAMESPACE, world.jobs()[0]["metadata"]["name"])
    world.settle()
    assert world.read(world.place().attempt_end("train", 1))["outcome"]["code"] == "lost"
    world.pass_time(2)
    assert world.job_names() == ["t-2"]


def test_a_job_that_someone_deleted_is_waited_for_until_its_pods_have_ended(world: World) -> None:
    start_run(world)
    world.api.delete(PYTORCHJOB, NAMESPACE, world.jobs()[0]["metadata"]["name"])
    world.settle()
    assert world.read(world.place().attempt_end("train", 1)) is None
    end_deleted_run(world)
    record = world.read(world.place().attempt_end("train", 1))
    assert record["outcome"]["code"] == "stopped"
    assert all(pod["log"] for pod in record["pods"])


def test_what_nobody_saw_is_asked_of_the_execution(world: World) -> None:
    world.apply()
    world.settle()
    world.start_pods()
    world.settle()
    world.write_execution(world.place(), "train", world.pods()[0]["metadata"]["uid"], STOPPED)
    job = world.jobs()[0]["metadata"]["name"]
    for pod in world.pods():
        world.api.remove(POD, NAMESPACE, pod["metadata"]["name"])
    world.api.remove(PYTORCHJOB, NAMESPACE, job)
    world.restart()
    world.settle()
    assert world.read(world.place().attempt_end("train", 1))["outcome"]["code"] == "stopped"


def test_a_pod_that_was_made_again_keeps_both_logs(world: World) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.api.delete(POD, NAMESPACE, worker["metadata"]["name"])
    worker = world.api.get(POD, NAMESPACE, worker["metadata"]["name"])
    world.api.logs[NAMESPACE, worker["metadata"]["name"]] = b"first, to its end\n"  # what following it gives
    world.settle()
    world.end_pod(worker, STOPPED)
    world.settle()
    again = world._make_pod(world.jobs()[0], 1, world.jobs()[0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"])
    world.end_pod(again, CRASH, log=b"second\n")
    world.end_pod(master, CRASH)
    world.end_jobs()
    world.settle()
    record = world.read(world.place().attempt_end("train", 1))
    ends = [(pod["name"].rsplit("-", 2)[1], pod["outcome"]["code"]) for pod in record["pods"]]
    assert sorted(ends) == [("master", "unexpected"), ("worker", "stopped"), ("worker", "unexpected")]
    said = [world.store.get(pod["log"]) for pod in record["pods"] if "-worker-" in pod["name"]]
    assert sorted(said) == [b"first, to its end\n", b"second\n"]


def test_a_worker_that_the_operator_removes_as_soon_as_the_master_has_ended_keeps_its_log(world: World) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.api.logs[NAMESPACE, worker["metadata"]["name"]] = b"rank 1, to its end\n"
    world.settle()
    world.end_pod(master)
    world.settle()
    lose_pod(world, worker)
    world.end_jobs()
    world.settle()
    assert worker_log(world) == b"rank 1, to its end\n"


def test_a_worker_that_goes_while_looks_wait_for_the_store_keeps_its_log(world: World) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.settle()
    world.api.logs[NAMESPACE, worker["metadata"]["name"]] = b"rank 1, to its end\n"
    world.end_pod(master)
    world.controller.refresh(world.controller.mirrors.pods)  # no look comes in between
    lose_pod(world, worker)
    world.end_jobs()
    world.settle()
    assert worker_log(world) == b"rank 1, to its end\n"


def test_a_log_that_the_store_does_not_take_is_kept_until_it_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.settle()
    world.api.logs[NAMESPACE, worker["metadata"]["name"]] = b"rank 1, to its end\n"
    world.end_pod(master)
    world.settle()
    lose_pod(world, worker)
    world.end_jobs()
    put = world.store.put_if_absent

    def refuse_ends(key: str, body: bytes) -> Any:
        if key == world.place().attempt_end("train", 1):
            raise Unavailable(Fault(where="s3://bucket", what="does not answer", remedy="Wait."))
        return put(key, body)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_if_absent", refuse_ends)
        world.settle()
    world.pass_time(120)
    assert worker_log(world) == b"rank 1, to its end\n"


def test_a_log_that_could_not_be_read_at_first_is_asked_for_again(world: World) -> None:
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    name = worker["metadata"]["name"]
    del world.api.logs[NAMESPACE, name]
    world.end_pod(master)
    world.settle()
    world.api.logs[NAMESPACE, name] = b"rank 1, to its end\n"
    world.api.delete(POD, NAMESPACE, name)
    world.settle()
    lose_pod(world, worker)
    world.end_jobs()
    world.settle()
    assert worker_log(world) == b"rank 1, to its end\n"


@pytest.mark.parametrize("comes_late", [True, False])
def test_a_log_whose_end_is_long_in_coming_is_waited_for_a_few_times(comes_late: bool, world: World) -> None:
    work: list[Callable[[], None]] = []

    def put_off(one: Callable[[], None]) -> Callable[[float], None]:
        work.append(one)
        return lambda _: None

    world.restart(spawn=put_off)
    world.apply()
    world.settle()
    master, worker = world.start_pods()
    world.settle()
    world.end_pod(master)
    world.settle()
    (read,) = work
    if comes_late:
        read()
    world.end_pod(worker, log=b"more, which nobody follows\n")
    world.end_jobs()
    for _ in range(MOST_TRIES):
        assert comes_late or world.read(world.place().attempt_end("train", 1)) is None
        world.pass_time(120)
    assert worker_log(world) == (b"step 1/4\n" if comes_late else b"more, which nobody follows\n")


def lose_pod(world: World, pod: Object) -> None:
    """The pod is gone, and nobody can read its log any more."""
    name = pod["metadata"]["name"]
    world.api.remove(POD, NAMESPACE, name)
    del world.api.logs[NAMESPACE, name]


def worker_log(world: World) -> bytes:
    record = world.read(world.place().attempt_end("train", 1))
    (log,) = [pod["log"] for pod in record["pods"] if "-worker-" in pod["name"]]
    return world.store.get(log)


def test_a_pod_that_was_lost_and_made_again_is_not_given_the_log_of_the_new_one(world: World) -> None:
    world.apply()
    world.settle()
    master, lost = world.start_pods()
    world.settle()
    world.api.remove(POD, NAMESPACE, lost["metadata"]["name"])
    again = world._make_pod(world.jobs()[0], 1, world.jobs()[0]["spec"]["pytorchReplicaSpecs"]["Worker"]["template"])
    world.settle()
    for pod in (again, master):
        world.end_pod(pod, CRASH, log=b"second\n")
    world.end_jobs()
    world.settle()
    record = world.read(world.place().attempt_end("train", 1))
    logs = {pod["uid"]: pod["log"] for pod in record["pods"] if "-worker-" in pod["name"]}
    assert logs.pop(lost["metadata"]["uid"]) is None
    assert [world.store.get(key) for key in logs.values()] == [b"second\n"]


def test_while_the_store_is_away_nothing_is_lost_and_readiness_says_so(world: World) -> None:
    world.apply()
    world.settle()

    def away(*_: Any) -> Any:
        raise Unavailable(Fault(where="s3://bucket", what="does not answer", remedy="Wait."))

    listing, put = world.store.list, world.store.put_if_absent
    world.store.list = world.store.put_if_absent = away  # type: ignore[method-assign, assignment]
    world.start_pods()
    world.settle()
    world.controller.check_store()
    assert world.controller.health.find_trouble() == ["store: s3://bucket: does not answer. Wait."]
    world.store.list, world.store.put_if_absent = listing, put  # type: ignore[method-assign]
    world.controller.check_store()
    assert world.controller.health.find_trouble() == []
    world.pass_time(120)
    assert world.play() == "Succeeded"
    assert any("will be looked at again" in line for line, _ in world.log.said)


def test_a_store_that_does_not_answer_at_all_makes_the_controller_unready(world: World) -> None:
    world.settle()
    world.controller.check_store()
    world.controller._asked_at = world.seconds
    world.seconds += 30
    world.controller.tick()
    assert world.controller.health.find_trouble() == ["store: has not answered for 30 s"]


def test_a_deleted_run_is_recorded_as_cancelled(world: World) -> None:
    world.apply()
    world.settle()
    uid = world.run()["metadata"]["uid"]
    world.api.delete(RUN, NAMESPACE, "demo")
    world.settle()
    ended = world.read(world.place().ended(uid))
    assert (ended["phase"], ended["outcome"]["code"]) == ("Cancelled", "deleted")


def test_a_run_deleted_while_no_controller_looked_is_recorded_by_the_sweep(world: World) -> None:
    world.apply()
    world.settle()
    uid = world.run()["metadata"]["uid"]
    world.api.delete(RUN, NAMESPACE, "demo")
    world.restart()
    world.settle()
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"


def test_a_run_deleted_while_it_runs_keeps_what_its_pods_said_and_is_then_cancelled(world: World) -> None:
    uid = start_run(world)
    world.api.remove(RUN, NAMESPACE, "demo")  # what it owned has not been collected yet
    world.settle()
    assert "deletionTimestamp" in world.jobs()[0]["metadata"]
    assert world.read(world.place().ended(uid)) is None
    end_deleted_run(world)
    assert world.read(world.place().ended(uid))["outcome"]["code"] == "deleted"
    record = world.read(world.place().attempt_end("train", 1))
    assert (record["run_uid"], record["outcome"]["code"]) == (uid, "stopped")
    assert [world.store.get(pod["log"]) for pod in record["pods"]] == [b"step 1/4\n"] * 2


def test_a_run_deleted_while_no_controller_looked_is_wound_down_by_the_next(world: World) -> None:
    uid = start_run(world)
    world.api.delete(RUN, NAMESPACE, "demo")
    world.restart()
    world.settle()
    assert len(world.pods()) == 2
    assert world.read(world.place().ended(uid)) is None
    end_deleted_run(world)
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"
    assert all(pod["log"] for pod in world.read(world.place().attempt_end("train", 1))["pods"])


def test_what_the_cluster_collected_of_a_deleted_run_before_anyone_looked_is_recorded_as_it_was_seen(
    world: World,
) -> None:
    uid = start_run(world)
    world.api.delete(RUN, NAMESPACE, "demo")
    take_away(world)
    world.restart()
    world.settle()
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"
    pods = world.read(world.place().attempt_end("train", 1))["pods"]
    assert [pod["outcome"]["code"] for pod in pods] == ["lost", "lost"]
    assert all(pod["image_id"] for pod in pods)


def test_a_run_deleted_and_applied_again_at_once_waits_for_what_is_still_there(world: World) -> None:
    uid = start_run(world)
    world.api.delete(RUN, NAMESPACE, "demo")
    world.apply()
    world.settle()
    assert (world.job_names(), len(world.pods())) == ([], 2)
    end_deleted_run(world)
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"
    assert world.play() == "Succeeded"
    assert world.read(world.place().attempt_end("train", 1))["run_uid"] == uid
    assert world.read(world.place().attempt_end("train", 2))["run_uid"] == world.run()["metadata"]["uid"]


def test_images_and_exit_codes_outlast_pods_and_the_controller_that_saw_them(world: World) -> None:
    start_run(world)
    master, _ = world.pods()
    world.end_pod(master, CRASH)
    world.settle()
    take_away(world)
    world.restart()
    world.settle()
    record = world.read(world.place().attempt_end("train", 1))
    assert sorted((pod["name"].rsplit("-", 2)[1], pod["exit_code"]) for pod in record["pods"]) == [
        ("master", 1),
        ("worker", None),
    ]
    assert all(pod["image_id"].startswith("registry.example/tandem@sha256:") for pod in record["pods"])


def test_a_deleted_run_whose_record_is_damaged_is_still_cancelled(world: World) -> None:
    uid = start_run(world)
    world.api.delete(RUN, NAMESPACE, "demo")
    world.restart()
    (world.folder / "store" / world.place().record).write_bytes(b"{")
    world.settle()
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"
    assert any("cannot be recorded" in line for line, _ in world.log.said)


def start_run(world: World) -> str:
    """A Run whose training is under way; its uid."""
    world.apply()
    world.settle()
    world.start_pods()
    world.settle()
    return str(world.run()["metadata"]["uid"])


def end_deleted_run(world: World) -> None:
    """Let the pods that are on their way out end, and the controller look again."""
    world.end_stopped()
    world.pass_time(3)


def take_away(world: World) -> None:
    """Every job and its pods, at once and unseen: a controller that looked would have read their logs."""
    for pod in world.pods():
        world.api.remove(POD, NAMESPACE, pod["metadata"]["name"])
    for job in world.jobs():
        world.api.remove(PYTORCHJOB, NAMESPACE, job["metadata"]["name"])


def test_a_run_made_again_goes_on_and_repeats_nothing_that_is_committed(world: World) -> None:
    world.apply(spec={**SPEC, "maxAttempts": 1})
    assert world.play(lambda stage: CRASH if stage.startswith("generate") else DONE) == "Failed"
    world.api.delete(RUN, NAMESPACE, "demo")
    world.settle()
    world.apply(spec={**SPEC, "maxAttempts": 1})
    world.settle()
    assert world.job_names() == ["g0-2"]
    assert world.play() == "Succeeded"


def test_a_status_is_rebuilt_from_the_store_after_the_cluster_was_lost(world: World) -> None:
    world.apply()
    assert world.play() == "Succeeded"
    figures = world.status()["metrics"]
    world.api = FakeApi()
    world.restart()
    world.apply()
    world.settle()
    assert world.status()["phase"] == "Succeeded"
    assert world.status()["metrics"] == figures
    assert not [call for call in world.api.calls if call[0] == "create" and call[1] != "events" and call[1] != "runs"]


def test_a_status_that_was_not_written_is_written_by_the_next_controller(world: World) -> None:
    world.apply()
    key = world.place().ended(world.run()["metadata"]["uid"])

    def die(verb: str, kind: Kind, name: str) -> None:
        if verb == "apply_status" and world.read(key) is not None:
            raise KeyboardInterrupt

    world.api.before = die
    with pytest.raises(KeyboardInterrupt):
        world.play()
    world.api.before = lambda *_: None
    assert world.status()["phase"] == "Running"
    world.restart()
    world.settle()
    assert world.status()["phase"] == "Succeeded"


def test_a_finished_run_object_goes_when_its_time_is_over(world: World) -> None:
    world.apply(spec={**SPEC, "ttlSecondsAfterFinished": 300})
    assert world.play() == "Succeeded"
    world.pass_time(100)
    assert world.run()
    world.pass_time(300)
    assert world.api.list(RUN, NAMESPACE).items == ()


def test_retries_use_the_manifest_of_the_first_attempt_whatever_the_profile_says_by_then(world: World) -> None:
    world.apply()
    world.settle()
    before = world.jobs()[0]["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["image"]
    changed = profiles.train()
    for replica in changed["manifest"]["spec"]["pytorchReplicaSpecs"].values():
        replica["template"]["spec"]["containers"][0]["image"] = "registry.example/other@sha256:" + "c" * 64
    write_profiles(world.profiles, {"train-2": changed, "generate-1": profiles.generate(), "score": profiles.score()})
    world.start_pods()
    for pod in world.pods():
        world.end_pod(pod, CRASH)
    world.end_jobs()
    world.settle()
    world.pass_time(5)
    (job,) = world.jobs()
    assert job["metadata"]["name"].endswith("-t-2")
    container = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["image"] == before
    assert {entry["name"]: entry.get("value") for entry in container["env"]}["ATTEMPT"] == "2"


def test_an_evaluation_by_an_endpoint_takes_no_gpu_and_no_other_evaluation_gets_its_key(world: World) -> None:
    spec = copy.deepcopy(SCORE_ONLY)
    server = {"baseUrl": "http://vllm:8000/v1", "model": "base"}
    spec["evals"].append({"name": "served", "of": "base", "data": "s3://bucket/held.json", "endpoint": server})
    world.apply(spec=spec)
    world.settle()
    assert world.job_names() == ["g0-1"]
    assert "there is no profile for endpoint" in world.status()["message"]
    write_profiles(world.profiles, {**changed_profile(), "asks": profiles.endpoint()})
    world.pass_time(60)
    assert world.job_names() == ["g0-1", "g1-1"]
    in_process, served = (job["spec"]["template"]["spec"]["containers"][0] for job in world.jobs())
    assert (in_process["resources"], served["resources"]) == ({"limits": {"nvidia.com/gpu": 1}}, {})
    assert [("TANDEM_ENDPOINT_API_KEY" in str(container)) for container in (in_process, served)] == [False, True]
    assert world.play() == "Succeeded"


def changed_profile(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"train-2": {**profiles.train(), **changes}, "generate-1": profiles.generate(), "score": profiles.score()}


def tagged() -> dict[str, dict[str, Any]]:
    found = changed_profile(requireDigest=True)
    for replica in found["train-2"]["manifest"]["spec"]["pytorchReplicaSpecs"].values():
        replica["template"]["spec"]["containers"][0]["image"] = "registry.example/tandem:latest"
    return found


REFUSALS: list[Any] = [
    pytest.param(
        {"profiles": {"train": "huge"}}, None, "spec.profiles.train: huge is not a profile here", id="unknown"
    ),
    pytest.param({"profiles": {"train": "score"}}, None, "score is a profile for score", id="of-another-stage"),
    pytest.param(
        {},
        changed_profile(ranks=8, manifest=profiles.train(ranks=8)["manifest"]),
        "spec.train.ranks: is 2, and profile train-2 trains on 8",
        id="ranks",
    ),
    pytest.param({}, tagged(), "its image registry.example/tandem:latest has no digest", id="tag"),
    pytest.param({}, changed_profile(speaks="other/v9"), "profile train-2: its image reads other/v9", id="speaks"),
]


@pytest.mark.parametrize(("more", "folder", "message"), REFUSALS)
def test_what_does_not_fit_is_refused_in_one_line_and_taken_up_once_it_does(
    world: World, more: dict[str, Any], folder: dict[str, dict[str, Any]] | None, message: str
) -> None:
    if folder is not None:
        write_profiles(world.profiles, folder)
    world.apply(spec={**SPEC, **more})
    world.settle()
    status = world.status()
    assert message in status["message"]
    assert "\n" not in status["message"]
    assert status["remedy"]
    assert status["phase"] == "Pending"
    stalled = next(one for one in status["conditions"] if one["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "Refused")
    assert world.jobs() == []
    assert reasons(world).count("Refused") == 1
    fitting = changed_profile()
    write_profiles(world.profiles, {**fitting, "huge": {**fitting["train-2"], "default": False}})
    world.pass_time(60)
    assert bool(world.jobs()) == ("score" not in str(more))


def test_a_missing_permission_is_refused_in_one_line(world: World) -> None:
    def forbid(verb: str, kind: Kind, name: str) -> None:
        if (verb, kind) == ("create", PYTORCHJOB):
            raise Forbidden(Fault(where="PyTorchJob team", what="is not permitted (pytorchjobs)", remedy="Ask."))

    world.api.before = forbid
    world.apply()
    world.settle()
    assert world.status()["message"] == "PyTorchJob team: is not permitted (pytorchjobs)"
    world.api.before = lambda *_: None
    world.pass_time(60)
    assert world.play() == "Succeeded"


def test_a_cluster_without_the_training_operator_says_so_and_evaluates_all_the_same(world: World) -> None:
    world.api.unknown = frozenset({"pytorchjobs"})
    world.apply()
    world.settle()
    assert "the cluster knows no PyTorchJob" in world.status()["message"]
    world.apply("plain", SCORE_ONLY)
    world.settle()
    names = [job["metadata"]["name"] for job in world.api.list(JOB, NAMESPACE).items]
    assert names == [f"{world.place('plain', SCORE_ONLY).run_id}-g0-1"]


def test_a_manifest_that_the_server_refuses_is_not_kept(world: World) -> None:
    def refuse(verb: str, kind: Kind, name: str) -> None:
        if (verb, kind) == ("create", PYTORCHJOB):
            raise Refused(Fault(where="PyTorchJob", what="is refused (spec.nope)", remedy="Correct it."))

    world.api.before = refuse
    world.apply()
    world.settle()
    assert "profile train-2: is refused (spec.nope)" in world.status()["message"]
    assert world.read(world.place().job("train")) is None


def test_a_run_whose_inputs_pods_cannot_reach_has_failed(world: World) -> None:
    def refuse(_: Any) -> Any:
        raise BadConfiguration(Fault(where="spec.model.source: ../base", what="is a path", remedy="Push it."))

    world.controller.reconciler.tracker.pin = refuse
    world.apply()
    world.settle()
    assert world.status()["phase"] == "Failed"
    assert world.status()["message"] == "spec.model.source: ../base: is a path (exit code 78)"


def test_a_spec_that_this_version_does_not_read_has_failed_with_every_fault(world: World) -> None:
    world.apply(spec={**SPEC, "nope": 1, "seed": "x"})
    world.settle()
    assert world.status()["phase"] == "Failed"
    assert "spec.nope: unknown key" in world.status()["message"]
    assert "spec.seed" in world.status()["message"]


def test_a_spec_that_was_changed_under_its_run_starts_no_second_one_and_goes_on_once_it_is_back(world: World) -> None:
    """An old definition of Runs lets it through; ours refuses it at the server."""
    world.apply()
    world.settle()
    world.start_pods()
    world.settle()
    before = world.status()
    world.api.merge(RUN, NAMESPACE, "demo", {"spec": {"seed": 7}})
    world.settle()
    world.restart()
    world.settle()
    status = world.status()
    assert world.job_names() == ["t-1"]
    changed = world.place(spec={**SPEC, "seed": 7}).run_id
    assert list(world.store.list_folders(f"runs/{NAMESPACE}/")) == [world.place().run_id]
    assert status["runId"] == world.place().run_id
    assert status["message"] == (
        f"spec: has changed under this Run: it makes {changed}, and the Run is {world.place().run_id}"
    )
    assert "name of its own" in status["remedy"]
    stalled = next(one for one in status["conditions"] if one["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "Refused")
    assert {**status, "message": 0, "remedy": 0, "conditions": 0} == {
        **before,
        "observedGeneration": world.run()["metadata"]["generation"],
        "message": 0,
        "remedy": 0,
        "conditions": 0,
    }
    assert reasons(world).count("Refused") == 1
    world.api.merge(RUN, NAMESPACE, "demo", {"spec": {"seed": None}})
    world.settle()
    assert "message" not in world.status()
    assert world.play() == "Succeeded"


def test_a_run_whose_spec_was_changed_is_still_recorded_when_it_is_deleted(world: World) -> None:
    world.apply()
    world.settle()
    uid = world.run()["metadata"]["uid"]
    world.api.merge(RUN, NAMESPACE, "demo", {"spec": {"seed": 7}})
    world.settle()
    world.api.delete(RUN, NAMESPACE, "demo")
    world.settle()
    assert world.read(world.place().ended(uid))["phase"] == "Cancelled"


def test_a_job_of_our_name_that_is_not_ours_is_left_alone(world: World) -> None:
    name = f"{world.place().run_id}-t-1"
    world.api.create(PYTORCHJOB, NAMESPACE, {"metadata": {"name": name}, "spec": {}})
    world.apply()
    world.settle()
    assert f"job {name}: is there already, and belongs to something else" in world.status()["message"]
    assert world.job_names() == ["t-1"]


def test_progress_of_the_pods_stands_in_the_status_with_the_time_that_is_left(world: World) -> None:
    world.apply()
    world.settle()
    for pod in world.start_pods():
        world.api.logs[NAMESPACE, pod["metadata"]["name"]] = b"step 1/4\n"
    world.settle()
    for pod in world.pods():
        world.api.logs[NAMESPACE, pod["metadata"]["name"]] = b"step 1/4\nstep 2/4\n"
    world.pass_time(30)
    assert world.status()["progress"] == {
        "unit": "steps",
        "done": 2,
        "total": 4,
        "etaSeconds": 60,
        "text": "2/4 steps",
    }


def test_why_nothing_runs_stands_in_the_status(world: World) -> None:
    world.apply()
    world.settle()
    for pod in world.start_pods():
        state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        world._set_state(pod, "Pending", state)
    world.settle()
    status = world.status()
    assert "cannot start: ImagePullBackOff: no such image" in status["message"]
    assert next(one["status"] for one in status["conditions"] if one["type"] == "Stalled") == "True"
    assert status["phase"] == "Pending"


def test_two_controllers_at_once_do_no_harm(world: World) -> None:
    world.apply()
    (world.folder / "other").mkdir()
    other = World(folder=world.folder / "other", api=world.api)
    other.store, other.seconds = world.store, world.seconds
    other.restart()
    for _ in range(12):
        for one in (world, other):
            one.settle()
        for pod in world.start_pods():
            world.end_pod(pod)
        world.end_jobs()
        world.seconds += 60
        other.seconds += 60
    assert world.status()["phase"] == "Succeeded"
    assert world.pods_made == 5


def test_what_happens_is_told_as_events_of_the_run(world: World) -> None:
    world.apply()
    world.play()
    events = world.api.list(EVENT, NAMESPACE).items
    assert {event["involvedObject"]["uid"] for event in events} == {world.run()["metadata"]["uid"]}
    assert {"Accepted", "AttemptStarted", "AttemptEnded", "Committed", "Succeeded"} <= {
        event["reason"] for event in events
    }
