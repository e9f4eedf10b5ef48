from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.store import Store, open_store, read_manifest
from tandem.train.checkpoints import (
    Measurement,
    Progress,
    Restored,
    checkpoint_name,
    find_complete,
    finish_checkpoint,
    restore_newest,
    rotate_checkpoints,
    upload_checkpoint,
)
from tandem.train.ranks import Ranks

EXECUTIONS = "runs/local/r/train/executions/"
ONE = Ranks()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def progress(step: int, *, ranks: int = 1) -> Progress:
    return Progress(
        step=step, steps=10, ranks=ranks, zero_stage=0, data="d", validation=(Measurement(step=step, loss=1.5),)
    )


def save(tmp_path: Path, store: Store, step: int, *, execution: str = "a", ranks: int = 1) -> str:
    written = tmp_path / f"checkpoint-{step}"
    (written / "sub").mkdir(parents=True)
    (written / "weights").write_bytes(b"w" * step)
    (written / "sub" / "state").write_text(execution)
    target = tmp_path / execution / checkpoint_name(step)
    finish_checkpoint(written, target, progress=progress(step, ranks=ranks), metrics=None)
    prefix = f"{EXECUTIONS}{execution}/checkpoints/{checkpoint_name(step)}"
    upload_checkpoint(store, target, prefix, ONE)
    return prefix


class Nodes:
    """Ranks of several nodes, one on each, as threads that hear each other."""

    def __init__(self, world: int) -> None:
        self.values: list[Any] = [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def rank(self, number: int) -> Ranks:
        nodes = self

        class Node(Ranks):
            def gather(self, value: Any) -> list[Any]:
                nodes.values[self.rank] = value
                nodes.barrier.wait()
                heard = list(nodes.values)
                nodes.barrier.wait()
                return heard

        return Node(world=len(self.values), rank=number, local_rank=0, local_world=1)

    def together(self, do: Callable[[Ranks], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.values)) as pool:
            return list(pool.map(lambda number: do(self.rank(number)), range(len(self.values))))


def damage(tmp_path: Path, key: str) -> None:
    path = tmp_path / "store" / key
    path.chmod(0o644)
    path.write_bytes(b"something else")


def test_the_newest_checkpoint_of_any_execution_is_restored(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2, execution="a")
    newest = save(tmp_path, store, 4, execution="b")
    save(tmp_path, store, 3, execution="c")
    restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1)
    assert restored is not None
    assert restored.source == newest
    assert restored.progress == progress(4)
    assert (restored.folder / "weights").read_bytes() == b"wwww"
    assert (restored.folder / "sub" / "state").read_text() == "b"


def test_without_a_checkpoint_nothing_is_restored(tmp_path: Path, store: Store) -> None:
    assert restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1) is None


def test_a_checkpoint_without_its_manifest_does_not_exist(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2)
    half = save(tmp_path, store, 4)
    (tmp_path / "store" / half / "manifest.json").unlink()
    assert [step for step, _ in find_complete(store, EXECUTIONS)] == [2]


@pytest.mark.parametrize("victim", ["weights", "progress.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, store: Store, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = save(tmp_path, store, 2)
    broken = save(tmp_path, store, 4)
    damage(tmp_path, f"{broken}/{victim}")
    with caplog.at_level(logging.WARNING):
        restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1)
    assert restored is not None
    assert restored.source == good
    assert broken in caplog.text


def test_a_file_that_was_removed_makes_a_checkpoint_broken(tmp_path: Path, store: Store) -> None:
    good = save(tmp_path, store, 2)
    broken = save(tmp_path, store, 4)
    (tmp_path / "store" / broken / "weights").unlink()
    restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1)
    assert restored is not None
    assert restored.source == good


def test_another_number_of_ranks_is_refused_with_the_remedy(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2, ranks=2)
    with pytest.raises(BadConfiguration, match=r"made by 2 ranks and cannot go on with 4.*profile with 2 ranks"):
        restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=4)


def test_an_uploaded_checkpoint_is_a_tree_with_all_its_files(tmp_path: Path, store: Store) -> None:
    prefix = save(tmp_path, store, 2)
    assert sorted(read_manifest(store, prefix)) == ["progress.json", "sub/state", "weights"]


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    written = tmp_path / "checkpoint-3"
    written.mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    target = tmp_path / "checkpoints" / checkpoint_name(3)
    finish_checkpoint(written, target, progress=progress(3), metrics=tmp_path / "metrics.jsonl")
    assert sorted(path.name for path in target.iterdir()) == ["metrics.jsonl", "progress.json"]
    assert not written.exists()


def test_only_the_newest_stay_on_disk(tmp_path: Path) -> None:
    for step in (200, 1_000_000, 400, 999_999):
        (tmp_path / checkpoint_name(step)).mkdir()
    rotate_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000000", "step-999999"]


def test_each_node_stores_its_own_files_and_one_manifest_lists_them_all(tmp_path: Path, store: Store) -> None:
    prefix = f"{EXECUTIONS}a/checkpoints/{checkpoint_name(2)}"

    def save_part(ranks: Ranks) -> None:
        written = tmp_path / f"node-{ranks.rank}" / "checkpoint-2"
        written.mkdir(parents=True)
        (written / f"state-{ranks.rank}").write_text(str(ranks.rank))
        target = written.parent / checkpoint_name(2)
        finish_checkpoint(written, target, progress=progress(2, ranks=2), metrics=None)
        upload_checkpoint(store, target, prefix, ranks)

    Nodes(2).together(save_part)
    assert sorted(read_manifest(store, prefix)) == ["progress.json", "state-0", "state-1"]

    def restore(ranks: Ranks) -> Restored | None:
        return restore_newest(store, EXECUTIONS, tmp_path / f"resume-{ranks.rank}", ranks, ranks_wanted=2)

    for number, restored in enumerate(Nodes(2).together(restore)):
        assert restored is not None
        assert restored.folder.parent == tmp_path / f"resume-{number}"
        assert (restored.folder / "state-1").read_text() == "1"


def test_every_node_refuses_what_rank_0_refuses(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2, ranks=1)

    def restore(ranks: Ranks) -> str:
        with pytest.raises(BadConfiguration) as caught:
            restore_newest(store, EXECUTIONS, tmp_path / f"resume-{ranks.rank}", ranks, ranks_wanted=2)
        return str(caught.value)

    assert len(set(Nodes(2).together(restore))) == 1
