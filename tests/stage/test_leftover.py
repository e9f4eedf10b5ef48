"""An attempt that was given up and yet goes on writes into its own execution, and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tandem.record.commit import read_commit, read_tree
from tandem.store import Manifest
from tandem.store.manifest import MANIFEST
from tests.e2e.desk import Desk
from tests.processes import list_descendants, wait_until
from tests.stage.trainings import Pod, Training, record_training

CHANGES = {"steps": 60, "lora": {"dropout": 0.05}, "checkpoints": {"everySteps": 5}}
EVAL = {
    "name": "after",
    "of": "adapter",
    "data": "eval.json",
    "tiles": {"max": 2},
    "maxNewTokens": 8,
    "precision": "float32",
    "bertScore": None,
}


def record(folder: Path) -> Training:
    folder.mkdir()
    write_questions(folder)
    return record_training(folder, CHANGES, [EVAL])


def write_questions(folder: Path) -> None:
    """About images that no training has seen."""
    (folder / "pictures").mkdir()
    samples = []
    for number in range(4):
        Image.new("RGB", (60, 60), (60 * number, 20, 200)).save(folder / "pictures" / f"{number}.png")
        samples.append(
            {
                "id": f"q{number}",
                "img_name": f"pictures/{number}.png",
                "question": "Which colour?",
                "answer": "red",
                "answer_type": "OPEN",
            }
        )
    (folder / "eval.json").write_text(json.dumps(samples))


@dataclass(frozen=True, kw_only=True)
class Command:
    """One `tandem run` under way."""

    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> None:
        """Wait until the Run has succeeded."""
        assert self.process.wait(timeout=500) == 0, self.log.read_text()


def start_run(training: Training) -> Command:
    log = training.folder / "run.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tandem", "run", training.file.name, "--store", "store"],
            cwd=training.folder,
            env=Desk(folder=training.folder).environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return Command(process=process, log=log)


def signal_all(pod: Pod, number: signal.Signals) -> None:
    for pid in (pod.process.pid, *list_descendants(pod.process.pid)):
        os.kill(pid, number)


def read_results(training: Training) -> dict[str, str]:
    """Name -> digest of everything in the store that counts: adapter, predictions, commits, pinned checkpoints."""

    def digest(manifest: Manifest, *starts: str) -> dict[str, str]:
        return {name: file.sha256 for name, file in manifest.items() if name.startswith(starts)}

    store, place = training.store, training.facts.place
    commit = read_commit(store, place, "train")
    found = digest(read_tree(store, commit.tree), "adapter/")
    for step, tree in commit.checkpoints.items():
        whole = digest(read_tree(store, tree), "adapter_model", "optimizer")
        found |= {f"{step}/{name}": sha256 for name, sha256 in whole.items()}
    texts = read_commit(store, place, "generate/after/0")
    return found | digest(read_tree(store, texts.tree), "part-", "predictions")


def test_a_leftover_of_attempt_1_that_writes_during_and_after_attempt_2_changes_nothing(tmp_path: Path) -> None:
    undisturbed = record(tmp_path / "undisturbed")
    beside = start_run(undisturbed)

    disturbed = record(tmp_path / "disturbed")
    leftover = disturbed.start("001-lost")
    wait_until(lambda: bool(disturbed.checkpoints("001-lost")), "a checkpoint of attempt 1")
    signal_all(leftover, signal.SIGSTOP)
    before = disturbed.checkpoints("001-lost")
    run = start_run(disturbed)
    wait_until(lambda: bool(disturbed.checkpoints("002-*")), "a checkpoint of attempt 2")
    signal_all(leftover, signal.SIGCONT)
    wait_until(lambda: len(disturbed.checkpoints("001-lost")) > len(before), "one more of attempt 1")
    signal_all(leftover, signal.SIGSTOP)
    run.finish()
    commit = disturbed.folder / "store" / disturbed.facts.place.commit("train")
    committed, results = commit.read_bytes(), read_results(disturbed)
    assert b"002-" in committed
    assert not (disturbed.executions / "001-lost" / MANIFEST).exists()

    signal_all(leftover, signal.SIGCONT)
    assert leftover.finish().exit_code == 0
    assert (disturbed.executions / "001-lost" / MANIFEST).exists(), "the leftover has written all that it had"
    start_run(disturbed).finish()
    beside.finish()
    assert commit.read_bytes() == committed
    assert read_results(disturbed) == results == read_results(undisturbed)
    assert {name.partition("/")[0] for name in results} >= {"adapter", "5", "60"}
    assert any(name.startswith(("part-", "predictions")) for name in results)
