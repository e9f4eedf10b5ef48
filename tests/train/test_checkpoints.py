"""Checkpoints on this node, and which are in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.store import Store, open_store
from tandem.train.checkpoints import checkpoint_name, find_complete, finish_checkpoint, rotate_checkpoints
from tests.train.saved import EXECUTIONS, describe_progress, save


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_a_checkpoint_without_its_manifest_does_not_exist(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2)
    half = save(tmp_path, store, 4)
    (tmp_path / "store" / half / "manifest.json").unlink()
    assert [step for step, _ in find_complete(store, EXECUTIONS)] == [2]


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    written = tmp_path / "checkpoint-3"
    written.mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    target = tmp_path / "checkpoints" / checkpoint_name(3)
    finish_checkpoint(written, target, progress=describe_progress(3), metrics=tmp_path / "metrics.jsonl")
    assert sorted(path.name for path in target.iterdir()) == ["metrics.jsonl", "progress.json"]
    assert not written.exists()


def test_only_the_newest_and_what_is_needed_stay_on_disk(tmp_path: Path) -> None:
    for step in (200, 1_000_000, 400, 999_999, 600):
        (tmp_path / checkpoint_name(step)).mkdir()
    rotate_checkpoints(tmp_path, keep=2, needed=[tmp_path / checkpoint_name(400)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000400", "step-1000000", "step-999999"]
    rotate_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
