"""Which checkpoint a training goes on from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.store import Entry, Store, open_store
from tandem.store.directory import Directory
from tandem.store.manifest import MANIFEST, decode_manifest, encode_manifest
from tandem.train.checkpoints import checkpoint_name
from tandem.train.ranks import Ranks
from tandem.train.restoring import Restored, restore_newest
from tandem.train.uploads import commit_parts, send_part
from tests.train.saved import EXECUTIONS, Nodes, describe_progress, list_files, save, write_checkpoint

ONE = Ranks()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def damage(path: Path, body: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(body)


def forget(store_folder: Path, prefix: str, name: str) -> None:
    """As if this file had never been part of the checkpoint."""
    manifest = store_folder / prefix / MANIFEST
    files = decode_manifest(manifest.read_bytes(), where="")
    del files[name]
    damage(manifest, encode_manifest(files))
    (store_folder / prefix / name).unlink()


def test_the_newest_checkpoint_of_any_execution_is_restored(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2, execution="a")
    newest = save(tmp_path, store, 4, execution="b")
    save(tmp_path, store, 3, execution="c")
    restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1)
    assert restored is not None
    assert restored.source == newest
    assert restored.progress == describe_progress(4)
    assert (restored.folder / "optimizer.pt").read_text() == "optimizer.pt b"


def test_without_a_checkpoint_nothing_is_restored(tmp_path: Path, store: Store) -> None:
    assert restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1) is None


@pytest.mark.parametrize("kind", [(1, 0), (2, 0), (1, 1), (2, 1)], ids="{0[0]} ranks, ZeRO {0[1]}".format)
@pytest.mark.parametrize("harm", ["truncated", "other bytes", "removed", "never there"])
def test_a_checkpoint_with_any_file_broken_or_missing_is_passed_over_and_named(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, harm: str, kind: tuple[int, int]
) -> None:
    ranks, zero = kind
    good = save(tmp_path, store, 2, ranks=ranks, zero=zero)
    for step, victim in enumerate([*list_files(0, ranks=ranks, zero=zero), "progress.json"], start=3):
        name = victim.replace("global_step0", f"global_step{step}")
        broken = save(tmp_path, store, step, ranks=ranks, zero=zero)
        path = tmp_path / "store" / broken / name
        if harm == "truncated":
            damage(path, path.read_bytes()[:-1])
        elif harm == "other bytes":
            damage(path, b"x" * path.stat().st_size)
        elif harm == "removed":
            path.unlink()
        else:
            forget(tmp_path / "store", broken, name)
    with caplog.at_level(logging.WARNING):
        restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=ranks)
    assert restored is not None
    assert restored.source == good
    passed_over = [record.getMessage() for record in caplog.records]
    assert len(passed_over) == step - 2
    assert all("is broken and passed over: " in line for line in passed_over)
    assert broken in passed_over[0]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"schema": "tandem.dev/manifest/v1", "files": {"../x": {}}}'])
def test_a_manifest_that_is_none_is_passed_over(tmp_path: Path, store: Store, body: bytes) -> None:
    good = save(tmp_path, store, 2)
    damage(tmp_path / "store" / save(tmp_path, store, 4) / MANIFEST, body)
    restored = restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=1)
    assert restored is not None
    assert restored.source == good


@pytest.mark.parametrize("zero", [0, 1])
def test_another_number_of_ranks_is_refused_with_the_remedy(tmp_path: Path, store: Store, zero: int) -> None:
    save(tmp_path, store, 2, ranks=2, zero=zero)
    with pytest.raises(BadConfiguration, match=r"made by 2 ranks and cannot go on with 4.*profile with 2 ranks"):
        restore_newest(store, EXECUTIONS, tmp_path / "resume", ONE, ranks_wanted=4)


def test_each_node_fetches_what_all_nodes_have_stored(tmp_path: Path, store: Store) -> None:
    prefix = f"{EXECUTIONS}a/checkpoints/{checkpoint_name(2)}"
    whole = write_checkpoint(tmp_path, 2, ranks=2)
    for rank in (0, 1):
        node = write_checkpoint(tmp_path / f"node-{rank}", 2, ranks=2)
        for path in whole.iterdir():
            if path.name != "progress.json" and (path.name == "rng_state_1.pth") != (rank == 1):
                (node / path.name).unlink()
        send_part(store, node, prefix, leader=rank, sent={})
    assert commit_parts(store, prefix, (0, 1))

    def restore(ranks: Ranks) -> Restored | None:
        return restore_newest(store, EXECUTIONS, tmp_path / f"resume-{ranks.rank}", ranks, ranks_wanted=2)

    for number, restored in enumerate(Nodes(2).together(restore)):
        assert restored is not None
        assert restored.folder.parent == tmp_path / f"resume-{number}"
        assert sorted(path.name for path in restored.folder.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_every_node_refuses_what_rank_0_refuses(tmp_path: Path, store: Store) -> None:
    save(tmp_path, store, 2, ranks=1)

    def restore(ranks: Ranks) -> str:
        with pytest.raises(BadConfiguration) as caught:
            restore_newest(store, EXECUTIONS, tmp_path / f"resume-{ranks.rank}", ranks, ranks_wanted=2)
        return str(caught.value)

    assert len(set(Nodes(2).together(restore))) == 1


def test_every_node_ends_when_one_cannot_reach_the_store(tmp_path: Path, store: Store) -> None:
    class Away(Directory):
        def list(self, prefix: str) -> Iterator[Entry]:
            raise Unavailable(Fault(where="s3://b", what="away", remedy="Wait"))

        def get(self, key: str) -> bytes:
            raise Unavailable(Fault(where="s3://b", what="away", remedy="Wait"))

    save(tmp_path, store, 2, ranks=2)

    def restore(away: int) -> list[str]:
        def one(ranks: Ranks) -> str:
            given = Away(tmp_path / "store") if ranks.rank == away else store
            with pytest.raises(Unavailable) as caught:
                restore_newest(given, EXECUTIONS, tmp_path / f"resume-{ranks.rank}", ranks, ranks_wanted=2)
            return str(caught.value)

        return Nodes(2).together(one)

    assert restore(0) == restore(1) == ["s3://b: away. Wait"] * 2
