"""A store that stays away: the command gives up with exit code 75, and the same command goes on once it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.cli.run import record_run
from tandem.evaluate.records import Prediction
from tandem.outcome import DONE
from tandem.record.commit import read_commit, write_commit
from tandem.record.run import find_run
from tandem.spec import load_run, sha256_hex
from tandem.stage.attempt import run_attempt
from tandem.stage.facts import Facts
from tandem.stage.score import read_texts
from tandem.store import open_store
from tests.e2e.desk import Desk
from tests.e2e.small import write_small_run
from tests.e2e.trials import Outage, run_through
from tests.servers import versitygw_in

STAGE = "generate/base/0"


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def generate_undisturbed(file: Path) -> str:
    """The texts of the Run in a store that is always there, made in this process; returns the store's address."""
    store = open_store(str(file.parent / "store"))
    place, body = record_run(store, load_run(file), again=False)
    facts = Facts(store_url=store.url, place=place, run_sha256=sha256_hex(body), stage=STAGE, attempt=1)
    work, cache = file.parent / "work", file.parent / "cache"
    assert run_attempt(facts, execution="001", work=work, cache=cache, say=print) == DONE
    write_commit(store, place, STAGE, "001", "2026-01-01T00:00:00+00:00")
    return store.url


def texts_in(store_url: str) -> list[Prediction]:
    store = open_store(store_url)
    place, _ = find_run(store, "small", namespace="local")
    return read_texts(store, read_commit(store, place, STAGE).tree)


def test_a_server_that_stays_away_ends_the_command_with_75_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_small_run(tmp_path)
    undisturbed = generate_undisturbed(file)
    with versitygw_in(make_folder(tmp_path / "gateway")) as gateway:
        gateway.server.client().create_bucket(Bucket="small")
        for name, value in gateway.server.environment().items():
            monkeypatch.setenv(name, value)
        desk = Desk(folder=tmp_path, extra={"TANDEM_STORE_RETRY_SECONDS": "1"})
        pattern = "small/runs/local/*/evals/base/generate/*/executions/*/part-*.jsonl"
        away = Outage(gateway=gateway, stage="generate", pattern=pattern, seconds=float("inf"))
        story = run_through(desk, file.name, "s3://small", [away], print)
        assert story.codes == [75, 0]
        assert texts_in("s3://small") == texts_in(undisturbed) != []
