"""The generate stage is told to stop in the middle, and the next attempt goes on from its parts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.run import record_run
from tandem.control.settings import ensure_settings, list_run_stages
from tandem.outcome import Outcome
from tandem.record.commit import list_executions, read_commit, read_file, write_commit
from tandem.record.run import parse_record
from tandem.spec import load_run, sha256_hex
from tandem.stage.attempt import run_attempt
from tandem.stage.facts import Facts
from tandem.store import Store, open_store
from tandem.store.layout import RunPlace
from tests.disks import small_disk
from tests.e2e.small import write_small_run

STAGE = "generate/base/0"
SAMPLES = 40


@dataclass
class Desk:
    """A Run of forty questions in bfloat16, in batches of a few, and attempts at its stages in this process."""

    folder: Path
    store: Store
    place: RunPlace
    body: bytes

    def attempt(
        self,
        stage: str,
        execution: str,
        say: Callable[[str], None] = lambda _: None,
        *,
        disk: Path | None = None,
    ) -> Outcome:
        """disk: where the attempt works, if not in this folder."""
        facts = Facts(
            store_url=self.store.url, place=self.place, run_sha256=sha256_hex(self.body), stage=stage, attempt=1
        )
        work = (disk or self.folder) / f"work-{execution}"
        return run_attempt(facts, execution=execution, work=work, cache=self.folder / "cache", say=say)

    def read(self, execution: str) -> dict[str, bytes]:
        prefix = self.place.execution(STAGE, execution)
        return {entry.key.removeprefix(prefix): self.store.get(entry.key) for entry in self.store.list(prefix)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    file = write_small_run(tmp_path)
    text = (
        file.read_text()
        .replace("float32", "bfloat16")
        .replace("maxNewTokens: 4", "maxNewTokens: 4\n      batchTokens: 300")
    )
    file.write_text(text)
    samples = json.loads((tmp_path / "eval.json").read_text())
    many = [
        {**samples[number % 3], "id": f"q{number}", "question": "Blue? " * (1 + number % 9)}
        for number in range(SAMPLES)
    ]
    (tmp_path / "eval.json").write_text(json.dumps(many))
    store = open_store(str(tmp_path / "store"))
    place, body = record_run(store, load_run(file), again=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield Desk(folder=tmp_path, store=store, place=place, body=body)
    signal.signal(signal.SIGTERM, handler)


def stop_after(samples: int) -> Callable[[str], None]:
    def say(told: str) -> None:
        if int(told.removeprefix("sample ").partition("/")[0]) > samples:
            os.kill(os.getpid(), signal.SIGTERM)

    return say


def parts_of(files: dict[str, Any]) -> dict[str, Any]:
    return {name: body for name, body in files.items() if name.startswith("part-")}


def test_after_sigterm_the_next_attempt_goes_on_and_says_in_bfloat16_what_an_undisturbed_one_says(desk: Desk) -> None:
    assert desk.attempt(STAGE, "000").exit_code == 0
    undisturbed = desk.read("000")
    first = undisturbed["part-00000.jsonl"].count(b"\n")
    assert 0 < first < SAMPLES // 2
    for name in undisturbed:
        (desk.folder / "store" / desk.place.execution(STAGE, "000") / name).unlink()

    outcome = desk.attempt(STAGE, "001", stop_after(first))
    assert (outcome.exit_code, outcome.code) == (143, "stopped")
    left = desk.read("001")
    assert parts_of(left) == {name: undisturbed[name] for name in ("part-00000.json", "part-00000.jsonl")}
    assert json.loads(left["exit.json"])["exit_code"] == 143
    assert "manifest.json" not in left

    told: list[str] = []
    assert desk.attempt(STAGE, "002", told.append).exit_code == 0
    ended = desk.read("002")
    assert parts_of(ended) == parts_of(undisturbed)
    assert told[0].startswith(f"sample {first}/40")
    record, before = json.loads(ended["generate.json"]), json.loads(undisturbed["generate.json"])
    assert record["reused"] == {"parts": {"part-00000.jsonl": "001"}, "texts_may_differ": False}
    assert {**record, "reused": before["reused"]} == before
    assert list_executions(desk.store, desk.place, STAGE) == {"001": False, "002": True}


def test_a_disk_without_room_for_texts_ends_the_attempt_with_its_name_and_keeps_them_in_the_store(desk: Desk) -> None:
    with small_disk(desk.folder / "disk", 4) as disk:
        outcome = desk.attempt(STAGE, "001", disk=disk)
    assert (outcome.exit_code, outcome.code) == (78, "bad-configuration")
    assert outcome.message == f"{disk}/work-001/output: the disk is full (No space left on device)"
    assert outcome.remedy == "Make room on it"
    assert "part-00000.jsonl" in desk.read("001")


def test_all_parts_are_scored_once_the_disk_has_room(desk: Desk) -> None:
    assert desk.attempt(STAGE, "001").exit_code == 0
    write_commit(desk.store, desk.place, STAGE, "001", "2026-01-01T00:00:00+00:00")
    spec = parse_record(desk.body, where="run.json").parse_spec()
    (_, score) = list_run_stages(desk.store, desk.place, spec)
    ensure_settings(desk.store, desk.place, spec, score.name)
    with small_disk(desk.folder / "disk", 4) as disk:
        full = desk.attempt(score.name, "score-000", disk=disk)
    assert (full.exit_code, full.code) == (78, "bad-configuration")
    assert full.message == f"{disk}/work-score-000/output: the disk is full (No space left on device)"
    assert desk.attempt(score.name, "score-001").exit_code == 0
    write_commit(desk.store, desk.place, score.name, "score-001", "2026-01-01T00:00:00+00:00")
    tree = read_commit(desk.store, desk.place, score.name).tree
    lines = [json.loads(line) for line in read_file(desk.store, tree, "samples.jsonl").splitlines()]
    assert [line["sample_id"] for line in lines] == [f"q{number}" for number in range(SAMPLES)]
