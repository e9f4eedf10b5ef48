"""A store that stays away: the command gives up with exit code 75, and the same command goes on once it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.evaluate.records import Prediction, read_jsonl
from tandem.record.commit import read_commit, read_files, read_tree
from tandem.record.run import find_run
from tandem.store import open_store
from tests.e2e.desk import Desk
from tests.e2e.small import write_small_run
from tests.e2e.trials import Outage, run_through
from tests.servers import versitygw_in


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def read_texts(store_url: str) -> list[Prediction]:
    store = open_store(store_url)
    place, _ = find_run(store, "local", "small")
    tree = read_commit(store, place, "generate/base/0").tree
    parts = [name for name in read_tree(store, tree) if name.endswith(".jsonl")]
    return [
        prediction
        for name, body in sorted(read_files(store, tree, parts).items())
        for prediction in read_jsonl(Prediction, body, where=name)
    ]


def test_a_server_that_stays_away_ends_the_command_with_75_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_small_run(tmp_path).name
    undisturbed = Desk(folder=tmp_path).tandem("run", file, "--store", str(tmp_path / "store"))
    assert undisturbed.code == 0, undisturbed.err
    with versitygw_in(make_folder(tmp_path / "gateway")) as gateway:
        gateway.server.client().create_bucket(Bucket="small")
        for name, value in gateway.server.environment().items():
            monkeypatch.setenv(name, value)
        desk = Desk(folder=tmp_path, extra={"TANDEM_STORE_RETRY_SECONDS": "2"})
        pattern = "small/runs/local/*/evals/base/generate/*/executions/*/part-*.jsonl"
        away = Outage(gateway=gateway, stage="generate", pattern=pattern, seconds=float("inf"))
        story = run_through(desk, file, "s3://small", [away], print)
        assert story.codes == [75, 0]
        assert read_texts("s3://small") == read_texts(str(tmp_path / "store"))
