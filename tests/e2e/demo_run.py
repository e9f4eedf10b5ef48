"""The demo's Run in tests: its inputs, a Run that has ended, and what of it must repeat to the byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.evaluate.records import Prediction, to_jsonl
from tandem.record.commit import Commit, read_commit, read_file
from tandem.record.run import find_run
from tandem.stage.score import read_texts
from tandem.store import Store, open_store
from tandem.store.layout import RunPlace
from tests.e2e.desk import Desk
from tests.e2e.trials import Trial, run_through

ROOT = Path(__file__).parents[2]
FILE = "jobs/demo.yaml"
MOST_RUNS = 4
"""That trials may be spread over: the moment of the last kills of a Run can come too late for it."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A demo that has ended, and the store that holds it."""

    desk: Desk
    store: Store
    place: RunPlace
    described: Any

    def commit(self, stage: str) -> Commit:
        return read_commit(self.store, self.place, stage)

    def read(self, stage: str, name: str) -> bytes:
        return read_file(self.store, self.commit(stage).tree, name)

    def results(self) -> dict[str, Any]:
        """The figures of each evaluation."""
        return {entry["eval"]: entry["result"] for entry in self.described["results"]}

    def read_what_must_repeat(self) -> dict[str, bytes]:
        """The adapter's weights, texts and figures, by what they are; a Run of other settings has another name."""
        return {
            "weights": self.read("train", "adapter/adapter_model.safetensors"),
            **{f"{name}, texts": to_jsonl(self.read_texts(name)) for name in ("base", "adapter")},
            **{
                f"{name}, figures": json.dumps({**result, "run": None}, sort_keys=True).encode()
                for name, result in self.results().items()
            },
        }

    def read_texts(self, evaluation: str) -> list[Prediction]:
        """What was generated, in the order in which it was written."""
        texts = read_texts(self.store, self.commit(f"generate/{evaluation}/0").tree)
        assert texts
        return texts


def prepare_inputs(root: Path) -> Path:
    """The demo's folder as `make demo` prepares it."""
    (root / "jobs").mkdir()
    shutil.copy(ROOT / FILE, root / FILE)
    answer = Desk(folder=root).tandem("demo", "prepare", "demo")
    assert answer.code == 0, answer.err
    return root


def give_workers(inputs: Path) -> str:
    """The demo's Run file with a data-loader worker for each rank: one more to be killed. It must change no byte."""
    text = (inputs / FILE).read_text()
    assert "    workers: 0\n" in text
    with_workers = inputs / "jobs" / "with-workers.yaml"
    with_workers.write_text(text.replace("    workers: 0\n", "    workers: 1\n"))
    return str(with_workers.relative_to(inputs))


def run_demo(desk: Desk, store_url: str) -> Finished:
    """Run it undisturbed."""
    answer = desk.tandem("run", FILE, "--store", store_url, "-o", "json")
    assert answer.code == 0, answer.err
    return find_finished(desk, store_url, json.loads(answer.out))


def run_under(
    desk: Desk, file: str, url_of: Callable[[int], str], trials: Sequence[Trial], say: Callable[[str], None]
) -> tuple[list[Finished], list[str]]:
    """Do everything to Runs of the demo, each in a store of its own; the Runs, and what was done to them."""
    left, runs, done = list(trials), list[Finished](), list[str]()
    while not runs or left:
        assert len(runs) < MOST_RUNS, f"their moment never came: {left}"
        url = url_of(len(runs))
        say(f"Run {len(runs) + 1}: {len(left)} trials")
        story = run_through(desk, file, url, left, say)
        runs.append(find_finished(desk, url, story.answer))
        done += story.done
        left = story.left
    return runs, done


def find_finished(desk: Desk, store_url: str, described: Any) -> Finished:
    """A demo that has ended; described is what the last command printed."""
    store = open_store(store_url)
    place, _ = find_run(store, "demo", namespace="local")
    return Finished(desk=desk, store=store, place=place, described=described)
