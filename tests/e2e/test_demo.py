"""The demo as a newcomer runs it, on a folder and on a real S3 server: it learns, and it repeats to the byte.

It is killed three times on each, and on S3 its server is killed three times and comes back. On the folder the training
and the base model's texts are left in peace: they say what must come out on S3, where the kills begin with them.
`make kills` does more of both, to Runs that are compared with one that nothing was done to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.cli.demo import report_demo
from tandem.errors import BadConfiguration
from tandem.evaluate.result import Result, read_result
from tests.e2e.demo_run import FILE, ROOT, Finished, give_workers, prepare_inputs, run_under
from tests.e2e.desk import Desk
from tests.e2e.trials import Trial, draw_kills, stop_while_writing
from tests.servers import versitygw_in

KILLED_ON_FOLDER, FOLDER_SEED = ("generate/adapter", "score/adapter"), 1184
KILLED_ON_S3, S3_SEED = ("train", "generate/base", "score/base"), 821
OUTAGE_SECONDS = 3.0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_inputs(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def on_folder(inputs: Path) -> Finished:
    """Killed once the adapter is being evaluated."""
    kills = draw_kills(3, FOLDER_SEED, KILLED_ON_FOLDER)
    (finished, *_), done = run_under(Desk(folder=inputs), FILE, lambda n: str(inputs / f"store{n or ''}"), kills, print)
    assert sum(one.startswith("killed") for one in done) == 3
    return finished


@pytest.fixture(scope="module")
def on_s3(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Finished]]:
    """Killed from the training on, and cut off from its store, again and again; more than one if kills were left."""
    with versitygw_in(tmp_path_factory.mktemp("gateway")) as gateway, pytest.MonkeyPatch.context() as patch:
        gateway.server.client().create_bucket(Bucket="demo")
        for name, value in gateway.server.environment().items():
            patch.setenv(name, value)
        trials: list[Trial] = [
            *stop_while_writing(gateway, "demo/0", OUTAGE_SECONDS),
            *draw_kills(3, S3_SEED, KILLED_ON_S3),
        ]
        runs, done = run_under(Desk(folder=inputs), give_workers(inputs), lambda n: f"s3://demo/{n}", trials, print)
        assert sum(one.startswith("killed") for one in done) == 3
        assert any("killed worker of rank" in one for one in done), done
        yield runs


def test_the_base_never_writes_the_marker_and_the_adapter_learns_task_and_format(on_folder: Finished) -> None:
    base, adapter = (on_folder.results()[name]["metrics"] for name in ("base", "adapter"))
    assert base["marker_rate"]["value"] == 0
    assert base["accuracy"]["all"]["value"] == 0
    assert adapter["marker_rate"]["n"] >= 200
    assert adapter["marker_rate"]["value"] >= 0.98
    assert adapter["accuracy"]["closed"]["value"] >= 0.95
    assert adapter["exact"]["open"]["value"] >= 0.95


def test_on_s3_the_same_seed_gives_the_same_bytes_whatever_is_killed(
    on_folder: Finished, on_s3: list[Finished]
) -> None:
    ours = on_folder.read_what_must_repeat()
    assert set(ours) == {"weights", "base, texts", "adapter, texts", "base, figures", "adapter, figures"}
    assert all(ours == finished.read_what_must_repeat() for finished in on_s3)


def test_everything_a_result_depends_on_is_in_the_store(on_folder: Finished) -> None:
    record = json.loads(on_folder.store.get(on_folder.place.record))
    assert set(record["inputs"]) == {
        "spec.model.source",
        "spec.train.meta",
        "spec.train.validation.meta",
        "spec.evals[base].data",
        "spec.evals[adapter].data",
    }
    environment = json.loads(on_folder.read("train", "environment.json"))
    assert "torch" in json.dumps(environment)
    card = json.loads(on_folder.read("train", "adapter/tandem.json"))
    assert card["tiles"] == {"max": 2, "rule": "perSample", "thumbnail": True}
    assert sorted(on_folder.commit("train").checkpoints) == [120, 240]


def test_metrics_are_written_line_by_line(on_folder: Finished) -> None:
    lines = [json.loads(line) for line in on_folder.read("train", "metrics.jsonl").splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(10, 241, 10))
    assert {"lr", "grad_norm", "samples_per_second", "tokens_per_second", "memory"} <= set(lines[0])
    assert [line["step"] for line in lines if "validation_loss" in line] == [120, 240]


def test_the_report_shows_both_models_and_what_was_learnt(on_folder: Finished) -> None:
    answer = on_folder.desk.tandem("demo", "report", "--store", str(on_folder.desk.folder / "store"))
    assert answer.code == 0, answer.err
    assert "marker rate" in answer.out
    assert "right answer without the marker to" in answer.out
    assert "No model has judged any answer" in answer.out


def test_the_report_compares_no_texts_of_a_server_with_ours_unless_it_is_told_to(
    on_folder: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_as_if_served(body: bytes, *, where: str) -> Result:
        served = {"preprocessing": "server"} if "/adapter/" in where else {}
        return read_result(body, where=where).model_copy(update=served)

    monkeypatch.setattr("tandem.evaluate.result.read_result", read_as_if_served)
    file, store = on_folder.desk.folder / FILE, str(on_folder.desk.folder / "store")
    with pytest.raises(BadConfiguration, match="--across-preprocessing"):
        report_demo(file, store, across_preprocessing=False)
    report_demo(file, store, across_preprocessing=True)
    assert "marker rate" in capsys.readouterr().out


def test_logs_are_kept_with_the_execution(on_folder: Finished) -> None:
    answer = on_folder.desk.tandem("logs", "demo", "--stage", "train", "--store", str(on_folder.desk.folder / "store"))
    assert "step 240/240" in answer.out


def test_a_first_small_run_is_a_run_of_its_own(inputs: Path, on_folder: Finished) -> None:
    text = (inputs / "jobs" / "demo.yaml").read_text()
    small = text.replace("  seed: 0\n", "  seed: 0\n  limit: 40\n").replace("steps: 240", "steps: 2")
    small = small.replace("of: adapter,", "of: checkpoint-best,").replace("name: demo", "name: small", 1)
    (inputs / "jobs" / "small.yaml").write_text(small)
    answer = on_folder.desk.tandem(
        "run", "jobs/small.yaml", "--store", str(inputs / "store"), "--at-once", "2", "-o", "json"
    )
    assert answer.code == 0, answer.err
    described = json.loads(answer.out)
    assert described["run"] != on_folder.place.run_id
    assert [entry["result"]["samples"]["total"] for entry in described["results"]] == [40, 40]


def test_every_command_of_the_readme_works_after_the_demo(on_folder: Finished) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line.split("#")[0].split()[1:] for line in page.splitlines() if line.startswith("tandem ")]
    assert len(commands) >= 6
    desk = Desk(folder=on_folder.desk.folder, extra={"TANDEM_STORE": "store"})
    for command in commands:
        answer = desk.tandem(*command)
        assert answer.code == 0, (command, answer.err)
