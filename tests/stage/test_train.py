"""The training stage with its real processes: torchrun, ranks, data-loader workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tandem.outcome import DONE, Outcome
from tandem.record.commit import read_file, write_commit
from tandem.stage.pods import Pod
from tandem.stage.torchrun import TOLD_BEFORE_RANKS
from tandem.stage.train import Ended, _Copy, _explain
from tandem.train.last_words import leave_outcome
from tests.processes import command_of, is_running, list_descendants, wait_until
from tests.servers import free_port
from tests.stage.trainings import record_training

LONG = {"steps": 100_000, "workers": 1, "checkpoints": {"everySteps": 5, "keep": 1}}


@pytest.mark.parametrize(
    ("victim", "ranks", "code"),
    [("worker", 1, "unexpected"), ("rank", 2, "rank-died"), ("torchrun", 1, "rank-died"), ("stage", 1, None)],
)
def test_kill_9_of_any_process_leaves_none_that_goes_on(
    tmp_path: Path, victim: str, ranks: int, code: str | None
) -> None:
    training = record_training(tmp_path, {**LONG, "ranks": ranks})
    pod = training.start("one")
    wait_until(lambda: bool(training.checkpoints("one")), "a checkpoint")
    below = list_descendants(pod.process.pid)
    rank_pids = [pid for pid in below if "tandem.train.rank" in command_of(pid) and "torchrun" not in command_of(pid)]
    workers = {child for pid in rank_pids for child in list_descendants(pid)}
    leaders = [pid for pid in rank_pids if pid not in workers]
    assert len(leaders) == ranks
    assert len(workers) == ranks
    target = {
        "worker": min(workers),
        "rank": leaders[-1],
        "torchrun": next(pid for pid in below if "tandem.stage.torchrun" in command_of(pid)),
        "stage": pod.process.pid,
    }[victim]
    os.kill(target, signal.SIGKILL)
    if code is None:
        pod.process.wait()
    else:
        outcome = pod.finish()
        assert (outcome.exit_code, outcome.code) == (1, code), pod.log.read_text()
        assert (training.executions / "one" / "exit.json").is_file()
        assert (training.executions / "one" / "logs" / "train.log").is_file()
    wait_until(lambda: not any(map(is_running, below)), "the end of every process")
    assert not (training.executions / "one" / "manifest.json").exists()


def test_told_to_stop_all_ranks_save_one_step_and_send_it_before_they_end(tmp_path: Path) -> None:
    training = record_training(tmp_path, {**LONG, "ranks": 2, "checkpoints": {"everySteps": 100_000}})
    pod = training.start("one")
    wait_until(lambda: "step 2/" in pod.log.read_text(), "two steps")
    pod.process.terminate()
    outcome = pod.finish()
    assert (outcome.exit_code, outcome.code) == (143, "stopped"), pod.log.read_text()
    (saved,) = training.checkpoints("one")
    assert outcome.message.startswith(f"step {int(saved.removeprefix('step-'))} of 100000")


def test_pods_that_train_together_write_one_execution_that_of_the_first(tmp_path: Path) -> None:
    training = record_training(tmp_path, {"ranks": 2, "zero": {"stage": 1}, "batch": {"packedTokens": 160}})
    gang = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_port()),
    }
    pods = [training.start(f"uid-{2 - number}", PET_NODE_RANK=str(number), **gang) for number in range(2)]
    assert [pod.finish() for pod in pods] == [DONE, DONE], "".join(pod.log.read_text() for pod in pods)
    assert [path.name for path in training.executions.iterdir()] == ["uid-2"]
    assert training.checkpoints("uid-2") == ["step-000002", "step-000004"]
    parts = training.executions / "uid-2" / "checkpoints" / "step-000002" / "parts"
    assert sorted(path.name for path in parts.iterdir()) == ["00000.json", "00001.json"]
    commit = write_commit(training.store, training.facts.place, "train", "uid-2", "2026-01-01T00:00:00+00:00")
    assert sorted(commit.checkpoints) == [2, 4]
    assert read_file(training.store, commit.tree, "adapter/adapter_model.safetensors")


STALLED = Outcome(exit_code=1, code="stalled", message="rank 1 hung")
STOPPED = Outcome(exit_code=143, code="stopped")


def explain(
    folder: Path, left: dict[int, Outcome], *, code: int = 1, asked: bool = False, pod: Pod, here: int = 2
) -> Outcome:
    for local_rank, outcome in left.items():
        leave_outcome(folder, local_rank, outcome)
    return _explain(folder, Ended(code=code, stop_asked=asked, spoken={}), pod, here)


def test_a_pod_looks_for_its_own_ranks_and_names_them_by_their_number_in_all(tmp_path: Path) -> None:
    second = Pod(number=1, pods=2, processes=2)
    assert explain(tmp_path, {0: DONE, 1: DONE}, code=0, pod=second) == DONE
    (tmp_path / "rank-00001.json").unlink()
    died = explain(tmp_path, {}, pod=second)
    assert (died.code, died.message) == ("rank-died", "rank 3 ended without a word (torchrun's exit code 1)")


def test_what_a_rank_said_explains_more_than_another_s_silence(tmp_path: Path) -> None:
    assert explain(tmp_path, {0: STALLED}, pod=Pod()) == STALLED


@pytest.mark.parametrize("code", [TOLD_BEFORE_RANKS, -signal.SIGTERM])
def test_told_to_stop_before_there_were_ranks_is_no_failure(tmp_path: Path, code: int) -> None:
    assert explain(tmp_path, {}, code=code, asked=True, pod=Pod()).exit_code == 143
    assert explain(tmp_path, {}, code=code, pod=Pod()).code == "rank-died"
    assert explain(tmp_path, {}, code=1, asked=True, pod=Pod()).code == "rank-died"


def test_a_log_that_has_no_room_ends_and_says_so_once() -> None:
    said: list[str] = []
    with Path("/dev/full").open("wb", buffering=0) as full:
        copy = _Copy(file=full, say=said.append)
        copy.write("one\n")
        copy.write("two\n")
    assert said == ["/dev/full: the log ends here (No space left on device)"]
