"""commit.json: one execution counts, and only a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.record.commit import (
    fetch_files,
    is_committed,
    list_executions,
    read_commit,
    read_file,
    read_tree,
    write_commit,
)
from tandem.store import Corrupt, NotThere, Store, open_store, upload_tree
from tandem.store.layout import RunPlace

PLACE = RunPlace(namespace="local", run_id="demo-0123456789")
AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def write_execution(store: Store, folder: Path, execution: str, *, stage: str = "train", text: str = "x") -> str:
    output = folder / f"{execution}-output"
    (output / "adapter").mkdir(parents=True)
    (output / "adapter" / "weights").write_text(text)
    (output / "exit.json").write_text("{}")
    prefix = PLACE.execution(stage, execution)
    upload_tree(store, output, prefix)
    return prefix


def write_checkpoint(store: Store, folder: Path, execution: str, step: int, text: str) -> None:
    checkpoint = folder / f"{execution}-{step}"
    checkpoint.mkdir()
    (checkpoint / "weights").write_text(text)
    upload_tree(store, checkpoint, f"{PLACE.execution('train', execution)}checkpoints/step-{step:06d}/")


def test_the_first_commit_stands(store: Store, tmp_path: Path) -> None:
    write_execution(store, tmp_path, "001-a", text="one")
    write_execution(store, tmp_path, "002-b", text="two")
    assert not is_committed(store, PLACE, "train")
    first = write_commit(store, PLACE, "train", "001-a", AT)
    assert write_commit(store, PLACE, "train", "002-b", AT) == first
    assert read_commit(store, PLACE, "train").execution == "001-a"
    assert read_file(store, first.tree, "adapter/weights") == b"one"


def test_an_execution_without_a_manifest_is_not_committed(store: Store) -> None:
    store.put_if_absent(f"{PLACE.execution('train', '001-a')}adapter/weights", b"half")
    assert list_executions(store, PLACE, "train") == {"001-a": False}
    with pytest.raises(NotThere):
        write_commit(store, PLACE, "train", "001-a", AT)


def test_an_execution_that_lost_a_file_is_not_committed(store: Store, tmp_path: Path) -> None:
    prefix = write_execution(store, tmp_path, "001-a")
    (tmp_path / "store" / prefix / "adapter" / "weights").unlink()
    with pytest.raises(Corrupt, match=r"adapter/weights: is missing or of another size"):
        write_commit(store, PLACE, "train", "001-a", AT)
    assert not is_committed(store, PLACE, "train")


def test_training_pins_the_checkpoints_of_all_its_executions(store: Store, tmp_path: Path) -> None:
    write_checkpoint(store, tmp_path, "001-a", 50, "first attempt")
    write_checkpoint(store, tmp_path, "001-a", 100, "first attempt")
    write_execution(store, tmp_path, "002-b")
    write_checkpoint(store, tmp_path, "002-b", 100, "second attempt")
    commit = write_commit(store, PLACE, "train", "002-b", AT)
    assert list(commit.checkpoints) == [50, 100]
    assert read_file(store, commit.checkpoints[100], "weights") == b"second attempt"


def test_a_leftover_s_checkpoints_do_not_replace_those_of_the_execution_that_counts(
    store: Store, tmp_path: Path
) -> None:
    write_execution(store, tmp_path, "counts")
    for execution in ("before", "counts", "leftover"):
        write_checkpoint(store, tmp_path, execution, 50, execution)
    write_checkpoint(store, tmp_path, "before", 25, "before")
    commit = write_commit(store, PLACE, "train", "counts", AT)
    assert {step: read_file(store, tree, "weights") for step, tree in commit.checkpoints.items()} == {
        25: b"before",
        50: b"counts",
    }


def test_a_manifest_that_changed_after_the_commit_is_refused(store: Store, tmp_path: Path) -> None:
    prefix = write_execution(store, tmp_path, "001-a")
    commit = write_commit(store, PLACE, "train", "001-a", AT)
    manifest = tmp_path / "store" / prefix / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"adapter/weights", b"adapter/weighty"))
    with pytest.raises(Corrupt, match="changed after it was committed"):
        read_tree(store, commit.tree)


def test_a_file_that_changed_after_the_commit_is_refused(store: Store, tmp_path: Path) -> None:
    prefix = write_execution(store, tmp_path, "001-a")
    commit = write_commit(store, PLACE, "train", "001-a", AT)
    (tmp_path / "store" / prefix / "adapter" / "weights").write_text("y")
    with pytest.raises(Corrupt):
        read_file(store, commit.tree, "adapter/weights")
    with pytest.raises(Corrupt):
        fetch_files(store, commit.tree, ("adapter/",), tmp_path / "fetched")


def test_only_wanted_files_are_fetched(store: Store, tmp_path: Path) -> None:
    write_execution(store, tmp_path, "001-a")
    commit = write_commit(store, PLACE, "train", "001-a", AT)
    fetch_files(store, commit.tree, ("adapter/",), tmp_path / "fetched")
    assert [path.name for path in (tmp_path / "fetched").rglob("*") if path.is_file()] == ["weights"]
    with pytest.raises(NotThere):
        read_file(store, commit.tree, "adapter/other")


def test_a_commit_that_is_garbage_is_refused(store: Store) -> None:
    store.put_if_absent(PLACE.commit("train"), b"[]")
    with pytest.raises(Corrupt, match="is not a commit"):
        read_commit(store, PLACE, "train")
