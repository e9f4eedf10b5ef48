"""Whatever lies in a store as a Run's records: what was written, or faults; never half of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.cli.console import Format
from tandem.cli.show import list_stored_runs, show_run
from tandem.control.settings import read_checkpoints
from tandem.evaluate.judge import ExactMatchJudge
from tandem.evaluate.records import Prediction, Record, ScoreLine, read_jsonl, to_jsonl
from tandem.evaluate.result import Result, read_result, write_result
from tandem.evaluate.score import score_predictions
from tandem.evaluate.shelf import ShelfPlace, StoreShelf
from tandem.record.commit import read_commit, write_commit
from tandem.record.run import Pin, RunRecord, find_run, parse_record, write_record
from tandem.store import Directory, open_store, upload_tree
from tandem.store.layout import RunPlace
from tests.evaluate.test_parts import EXECUTIONS, MADE_WITH, PARTS, SAMPLES, Desk, Maker
from tests.evaluate.test_score import prediction, scoring
from tests.fuzz.damage import damaged_bytes, damaged_json, damaged_lines, fuzzing, read_or_faults
from tests.spec.runs import parse, run_file

pytestmark = pytest.mark.timeout(120)

AT = "2026-01-01T00:00:00+00:00"
PREDICTIONS = [
    prediction("a", "I look.### The final answer is: Yes.", case_id="c", reference_reasoning="Look."),
    prediction("b", "No marker."),
]
LINES, RESULT = score_predictions(PREDICTIONS, scoring(), judge=ExactMatchJudge(), scorer=None)


def as_json(record: Record) -> Any:
    return record.model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(("kind", "records"), [(Prediction, PREDICTIONS), (ScoreLine, LINES)])
def test_whole_lines_are_read(kind: type[Record], records: list[Record]) -> None:
    assert read_jsonl(kind, to_jsonl(records), where="p") == records


@fuzzing(300)
@given(damaged_lines([as_json(one) for one in PREDICTIONS]))
def test_damaged_predictions_are_predictions_or_faults(body: bytes) -> None:
    read_or_faults(lambda: read_jsonl(Prediction, body, where="part-00000.jsonl"))


@fuzzing(200)
@given(damaged_lines([as_json(one) for one in LINES]))
def test_damaged_score_lines_are_lines_or_faults(body: bytes) -> None:
    read_or_faults(lambda: read_jsonl(ScoreLine, body, where="samples.jsonl"))


@fuzzing(300)
@given(damaged_json(as_json(RESULT), indent=2))
def test_a_damaged_result_is_a_result_or_faults(body: bytes) -> None:
    found: Result | None = read_or_faults(lambda: read_result(body, where="result.json"))
    if found is not None:
        assert read_result(write_result(found), where="again") == found


class Finished:
    """A store with one Run whose stages are committed, and what is damaged in it and mended again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, str(folder / "store")
        self.store = open_store(self.url)
        submission = parse(run_file(evals=[{"name": "heldout", "data": "e.json", "bertScore": None}]))
        pin = Pin(text="base", location="/base", digest=f"sha256:{'0' * 64}", files=1, size=2)
        self.place, body = write_record(
            self.store, submission, {"spec.model.source": pin}, namespace="local", submitted_at=AT, again=False
        )
        self.record = parse_record(body, where="run.json")
        for stage, files in {
            "train": {"adapter/tandem.json": b"{}", "metrics.jsonl": b""},
            "generate/heldout/0": {"part-00000.jsonl": to_jsonl(PREDICTIONS)},
            "score/heldout/0123456789": {"result.json": write_result(RESULT), "samples.jsonl": to_jsonl(LINES)},
        }.items():
            self.write(stage, {"exit.json": b'{"exit_code": 0, "code": "done", "message": "", "remedy": ""}', **files})
            write_commit(self.store, self.place, stage, "001-a", AT)

    def write(self, stage: str, files: dict[str, bytes]) -> None:
        output = self.folder / "output"
        for name, body in files.items():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_bytes(body)
        upload_tree(self.store, output, self.place.execution(stage, "001-a"))
        shutil.rmtree(output)

    def path(self, key: str) -> Path:
        return Path(self.url) / key

    def show(self, output: Format) -> None:
        """What `tandem show`, `tandem list` and the start of `tandem score` read."""
        read_or_faults(lambda: show_run(self.place.run_id, self.url, namespace=None, output=output))
        read_or_faults(lambda: list_stored_runs(self.url, namespace=None, output=output))
        read_or_faults(lambda: read_checkpoints(self.store, self.place))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def whole(finished: Finished) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(Path(finished.url).rglob("*")) if path.is_file()}


def test_the_whole_run_is_shown(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    show_run(finished.place.run_id, finished.url, namespace=None, output=Format.TABLE)
    assert "score/heldout/0123456789" in capsys.readouterr().out


@fuzzing(300)
@given(st.data())
def test_a_damaged_run_record_is_a_record_or_faults(finished: Finished, data: st.DataObject) -> None:
    body = data.draw(damaged_json(json.loads(finished.record.model_dump_json(by_alias=True))))
    found: RunRecord | None = read_or_faults(lambda: parse_record(body, where="run.json"))
    if found is not None:
        found.parse_spec()


@fuzzing(200)
@given(st.data())
def test_a_damaged_commit_is_a_commit_or_faults(finished: Finished, data: st.DataObject) -> None:
    key = finished.place.commit("train")
    path = finished.path(key)
    whole = path.read_bytes()
    document = json.loads(whole)
    document["checkpoints"] = {"50": document["tree"], "100": document["tree"]}
    try:
        path.write_bytes(data.draw(damaged_json(document)))
        read_or_faults(lambda: read_commit(finished.store, finished.place, "train"))
    finally:
        path.write_bytes(whole)


@fuzzing(200)
@given(st.data())
def test_a_damaged_store_is_shown_or_faults(
    finished: Finished, whole: dict[Path, bytes], capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """Any file of the Run is damaged or gone."""
    path = data.draw(st.sampled_from(sorted(whole)))
    try:
        body = data.draw(st.none() | damaged_bytes(whole[path]))
        path.unlink() if body is None else path.write_bytes(body)
        finished.show(data.draw(st.sampled_from(Format)))
        capsys.readouterr()
    finally:
        path.write_bytes(whole[path])


STRAY = (
    "evals/heldout/generate/shard-x/y",
    "evals/heldout/generate/0",
    "evals/heldout/generate/shard-00/executions/002-b/exit.json",
    "evals/heldout/scores/x/y",
    "evals/heldout/scores/a/b/c/commit.json",
    "evals/-/generate/shard--1/executions/x",
    "evals/a\nb/generate/shard-00/x",
    "evals/a b/generate/shard-00/x",
    "evals/heldout/generate/shard-" + "9" * 200 + "/x",
    "train/executions/x",
    "train/executions/001-a/checkpoints/step-x/manifest.json",
    "train/executions/001-a/checkpoints/x/manifest.json",
    "train/x",
    "run.json/x",
    "x",
)


@pytest.mark.parametrize("key", STRAY)
def test_a_stray_file_is_passed_over_or_named(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    finished = Finished(tmp_path)
    path = finished.path(f"{finished.place.prefix}{key}")
    if key.startswith("run.json"):
        path.parent.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"[[[")
    finished.show(Format.TABLE)
    finished.show(Format.JSON)
    read_or_faults(lambda: write_commit(finished.store, finished.place, "train", "001-a", AT))
    finished.path(finished.place.commit("train")).unlink()
    read_or_faults(lambda: write_commit(finished.store, finished.place, "train", "001-a", AT))


RESULTS: tuple[Any, ...] = (None, 5, [], {}, {"metrics": 5}, "x", {"metrics": {"marker_rate": {"value": "a"}}})


@pytest.mark.parametrize("result", RESULTS, ids=repr)
@pytest.mark.parametrize("name", ["result.json", "exit.json"])
def test_a_result_or_exit_of_another_kind_is_shown_or_named(
    tmp_path: Path, name: str, result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = Finished(tmp_path)
    whole = {"result.json": b"{}", "exit.json": b"{}"}
    finished.write("score/heldout/abcdefabcd", whole | {name: json.dumps(result).encode()})
    write_commit(finished.store, finished.place, "score/heldout/abcdefabcd", "001-a", AT)
    finished.show(Format.TABLE)


@pytest.fixture(scope="module")
def shelved(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A store that holds every part of an attempt."""
    desk = Desk(folder=tmp_path_factory.mktemp("parts"))
    desk.attempt("001-a", Maker())
    return desk


@fuzzing(200)
@given(st.data())
def test_damaged_parts_are_used_as_they_were_or_not_at_all(shelved: Desk, data: st.DataObject) -> None:
    files = {path: path.read_bytes() for path in sorted((shelved.folder / "store").rglob("part*"))}
    path = data.draw(st.sampled_from(sorted(files)))
    told: list[str] = []
    place = ShelfPlace(store=shelved.store, executions=EXECUTIONS, execution="002-b")
    try:
        body = data.draw(st.none() | damaged_bytes(files[path]))
        path.unlink() if body is None else path.write_bytes(body)
        found = StoreShelf(place=place, made_with=MADE_WITH, say=told.append).find(PARTS, SAMPLES)
    finally:
        path.write_bytes(files[path])
    assert all(kept.body == files[shelved.stored("001-a", PARTS[number].name)] for number, kept in found.items())
    assert all(len(line.splitlines()) == 1 for line in told)


@fuzzing(100)
@given(st.text(max_size=12) | st.sampled_from(["", ".", "..", "/", "a/b", "\0", "x" * 5_000, "\udcff", "demo\n"]))
def test_any_id_of_a_run_is_found_or_a_fault(finished: Finished, wanted: str) -> None:
    read_or_faults(lambda: find_run(finished.store, wanted, namespace="local"))


def test_the_store_is_a_folder_and_the_place_is_its_own(finished: Finished) -> None:
    assert isinstance(finished.store, Directory)
    assert finished.place == RunPlace(namespace="local", run_id=finished.place.run_id)
