"""A Run on this machine, through the command line as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tandem.record.run import write_record
from tandem.store import open_store
from tests.e2e.desk import Desk
from tests.e2e.small import write_small_run
from tests.processes import command_of, is_running, list_descendants, wait_until
from tests.spec.runs import parse, run_file


def make_desk(folder: Path) -> Desk:
    write_small_run(folder)
    return Desk(folder=folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk whose small Run has ended well."""
    desk = make_desk(tmp_path_factory.mktemp("desk"))
    answer = desk.tandem("run", "small.yaml")
    assert answer.code == 0, answer.err
    return desk


def test_every_sample_ends_in_the_result(finished: Desk) -> None:
    (entry,) = finished.describe("small")["results"]
    result = entry["result"]
    assert result["schema"] == "tandem.dev/result/v1"
    assert result["samples"]["total"] == 3
    assert result["samples"]["unscored"] == 0


def test_show_says_which_judge_was_used_and_where_everything_lies(finished: Desk) -> None:
    shown = finished.tandem("show", "small").out
    assert "No model has judged any answer" in shown
    assert f"Everything lies in {(finished.folder / 'tandem-store').as_uri()}" in shown


def test_logs_are_kept_of_every_stage_and_chosen_by_the_beginning_of_its_name(finished: Desk) -> None:
    everything = json.loads(finished.tandem("logs", "small", "-o", "json").out)
    generated, scored = everything.values()
    assert generated.splitlines()[-1].startswith("sample 3/3 ")
    assert scored.startswith("3 texts; ")
    for beginning, wanted in (("generate", generated), ("generate/base/0", generated), ("score/base", scored)):
        chosen = json.loads(finished.tandem("logs", "small", "--stage", beginning, "-o", "json").out)
        assert list(chosen.values()) == [wanted]
    answer = finished.tandem("logs", "small", "--stage", "gen")
    assert answer.code == 78
    (line,) = answer.err.splitlines()
    assert line.startswith("tandem: --stage gen: is no stage of small-")
    assert "Give one of generate/base/0, score/base/" in line


def test_the_same_command_again_adopts_what_is_committed(finished: Desk) -> None:
    before = finished.describe("small")
    answer = finished.tandem("run", "small.yaml", "-o", "json")
    assert answer.code == 0
    assert json.loads(answer.out) == before


def test_scoring_again_with_the_same_settings_changes_nothing(finished: Desk) -> None:
    before = finished.describe("small")
    assert finished.tandem("score", "small").code == 0
    assert finished.describe("small") == before


def test_scoring_with_other_settings_is_kept_beside_the_first(finished: Desk) -> None:
    (finished.folder / "other.yaml").write_text("bertScore: {layer: 2}\n")
    answer = finished.tandem("score", "small", "--settings", "other.yaml", "-o", "json")
    assert answer.code == 0, answer.err
    first, second = sorted(json.loads(answer.out)["results"], key=lambda entry: entry["result"]["bertscore"] is None)
    assert first["result"]["bertscore"]["layer"] == 2
    assert second["result"]["bertscore"] is None


def test_wrong_settings_are_one_line(finished: Desk) -> None:
    (finished.folder / "wrong.yaml").write_text("judge: {kind: oracle}\n")
    answer = finished.tandem("score", "small", "--settings", "wrong.yaml")
    assert answer.code == 78
    assert answer.err.startswith("tandem: wrong.yaml:1: judge.kind:")


def test_changed_data_under_an_unchanged_file_are_refused(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    assert desk.tandem("run", "small.yaml").code == 0
    data = desk.folder / "eval.json"
    data.write_text(data.read_text().replace("Is it blue?", "Is it green?"))
    answer = desk.tandem("run", "small.yaml")
    assert answer.code == 78
    assert "spec.evals[base].data: eval.json: has changed since this Run was first submitted" in answer.err
    assert desk.tandem("run", "small.yaml", "--again").code == 0
    assert len(json.loads(desk.tandem("list", "-o", "json").out)) == 2


def test_one_damaged_run_hides_no_other_in_the_list(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path)
    store = open_store(str(tmp_path / "tandem-store"))
    place, _ = write_record(store, parse(run_file()), {}, namespace="local", submitted_at="2026-01-01", again=False)
    store.put_if_absent("runs/local/damaged/run.json", b'{"schema": ')
    answer = desk.tandem("list")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()] == ["run", "damaged", place.run_id]
    (line,) = answer.err.splitlines()
    assert line.startswith("tandem: runs/local/damaged/run.json")
    damaged, whole = json.loads(desk.tandem("list", "-o", "json").out)
    assert "is not a run record" in damaged["fault"]
    assert (whole["submittedAt"], whole["fault"]) == ("2026-01-01", None)


def test_every_fault_is_said_before_anything_starts(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    (desk.folder / "images" / "1.png").write_bytes((desk.folder / "images" / "1.png").read_bytes()[:60])
    (desk.folder / "images" / "2.png").unlink()
    answer = desk.tandem("run", "small.yaml")
    assert answer.code == 65
    assert "1.png" in answer.err
    assert "2.png" in answer.err
    assert not (desk.folder / "tandem-store" / "runs").exists()


def test_faults_of_the_run_file_and_of_what_it_names_come_together(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    (desk.folder / "images" / "2.png").unlink()
    file = desk.folder / "small.yaml"
    file.write_text(file.read_text().replace("maxNewTokens", "maxNewToken").replace("source: base", "source: bass"))
    wanted = (
        "spec.evals[0].maxNewToken: unknown key",
        "spec.model.source: bass: is not on",
        "2.png: the image does not",
    )
    for command, beginning in (("check", "fault: "), ("run", "tandem: ")):
        answer = desk.tandem(command, "small.yaml")
        assert answer.code == 78
        lines = answer.err.splitlines()
        assert [sum(part in line for line in lines if line.startswith(beginning)) for part in wanted] == [1, 1, 1]
        assert len(lines) == 3
    answer = desk.tandem("check", "small.yaml", "--json")
    assert answer.code == 78
    codes = [finding["code"] for finding in json.loads(answer.out)["findings"]]
    assert codes == ["run-file", "model-missing", "image-missing"]


def test_nothing_is_pushed_while_the_run_file_or_its_inputs_have_faults(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    (desk.folder / "images" / "2.png").unlink()
    file = desk.folder / "small.yaml"
    file.write_text(file.read_text().replace("maxNewTokens", "maxNewToken").replace("source: base", "source: bass"))
    answer = desk.tandem("push", "small.yaml")
    assert (answer.code, answer.out) == (78, "")
    wanted = ("spec.evals[0].maxNewToken: unknown key", "spec.model.source: bass: is not on", "names images/2.png")
    assert [part in line for part, line in zip(wanted, answer.err.splitlines(), strict=True)] == [True] * 3
    assert not (desk.folder / "tandem-store").exists()


@pytest.mark.parametrize("name", ["gone", "x" * 300])
def test_what_is_not_there_cannot_be_pushed(name: str, tmp_path: Path) -> None:
    answer = Desk(folder=tmp_path).tandem("push", name)
    assert answer.code == 78
    assert answer.err.startswith(f"tandem: {name}: ")
    assert len(answer.err.splitlines()) == 1


def test_a_run_file_that_cannot_be_read_is_json_too(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path)
    answer = desk.tandem("check", "gone.yaml", "--json")
    assert answer.code == 78
    (finding,) = json.loads(answer.out)["findings"]
    assert (finding["code"], finding["where"]) == ("run-file", "gone.yaml")


def test_an_unknown_run_and_an_unusable_store_are_one_line_each(finished: Desk) -> None:
    for arguments, code in (
        (("show", "nothing"), 78),
        (("show", "small", "--store", "ftp://x"), 78),
        (("run", "missing.yaml"), 78),
    ):
        answer = finished.tandem(*arguments)
        assert answer.code == code
        assert len(answer.err.splitlines()) == 1


def test_schema_and_help_are_instant_and_complete(finished: Desk) -> None:
    schema = json.loads(finished.tandem("schema").out)
    assert schema["properties"]["kind"]["const"] == "Run"
    assert json.loads(finished.tandem("schema", "result").out)["properties"]["schema"]["const"].endswith("result/v1")
    assert "verdict" in json.loads(finished.tandem("schema", "sample").out)["properties"]
    helped = finished.tandem("--help").out
    for command in ("run", "check", "list", "show", "logs", "score", "push", "schema", "demo"):
        assert f"  {command} " in helped


def test_a_pushed_folder_is_found_by_its_digest(finished: Desk) -> None:
    first = finished.tandem("push", "base")
    second = finished.tandem("push", "base")
    assert first.code == 0
    assert first.out == second.out
    assert "/inputs/sha256/" in first.out


def test_a_run_whose_inputs_were_pushed_can_be_made_anywhere(finished: Desk, tmp_path: Path) -> None:
    pushed = finished.tandem("push", "small.yaml")
    assert pushed.code == 0, pushed.err
    (tmp_path / "pushed.yaml").write_text(pushed.out)
    made = Desk(folder=tmp_path).tandem("run", "pushed.yaml", "-o", "json")
    assert made.code == 0, made.err
    ours, theirs = (
        [entry["result"]["samples"] for entry in described["results"]]
        for described in (json.loads(made.out), finished.describe("small"))
    )
    assert len(ours) == 1
    assert ours[0] in theirs


def test_an_interrupted_run_leaves_nothing_running_and_goes_on(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tandem", "run", "small.yaml"],
        cwd=desk.folder,
        env=desk.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "tandem-store" in line:
            break
    _wait_for_child(process.pid)
    children = list_descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    assert process.wait(timeout=120) in (130, 0)
    assert not [pid for pid in children if is_running(pid)]
    assert desk.tandem("run", "small.yaml").code == 0


def test_a_killed_run_takes_its_attempt_with_it(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "tandem", "run", "small.yaml"],
        cwd=desk.folder,
        env=desk.environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _wait_for_child(process.pid)
    time.sleep(0.5)  # the child ties itself to its parent in its first moments
    children = list_descendants(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, children)), "the end of every process")
    assert desk.tandem("run", "small.yaml").code == 0


def _wait_for_child(pid: int) -> None:
    wait_until(lambda: any(" stage " in command_of(child) for child in list_descendants(pid)), "an attempt's start")
