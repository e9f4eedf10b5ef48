"""Trees: whole or not there, verified on the way up and down."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tandem.errors import BadData
from tandem.store import (
    AlreadyThere,
    Corrupt,
    Directory,
    NotThere,
    Store,
    digest_folder,
    download_tree,
    read_manifest,
    tree_digest,
    upload_tree,
    verify_tree,
)
from tests.store.conftest import Kept

FILES = {"adapter/weights.bin": b"w" * 100_000, "adapter/ü.json": b"{}", "empty": b"", "log.txt": b"line\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "tree", FILES)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("prefix", ["", "runs/local/x", "runs/local/x/"])
def test_a_tree_comes_back_as_it_was(store: Store, folder: Path, tmp_path: Path, prefix: str) -> None:
    manifest = upload_tree(store, folder, prefix)
    assert manifest == digest_folder(folder) == read_manifest(store, prefix) == verify_tree(store, prefix)
    assert download_tree(store, prefix, tmp_path / "deep" / "copy") == manifest
    assert contents(tmp_path / "deep" / "copy") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_an_empty_folder_is_a_tree_without_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert upload_tree(store, tmp_path / "none", "x") == {}
    download_tree(store, "x", tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_the_manifest_is_written_after_all_files(folder: Path, tmp_path: Path) -> None:
    written_keys: list[str] = []

    class Recorded(Directory):
        def put_if_absent(self, key: str, body: bytes) -> None:
            written_keys.append(key)
            super().put_if_absent(key, body)

    store = Recorded(tmp_path / "store")
    upload_tree(store, folder, "x")
    assert written_keys == ["x/manifest.json"]
    assert len(list(store.list("x/"))) == len(FILES) + 1


def test_half_a_tree_is_not_there(store: Store, folder: Path, tmp_path: Path) -> None:
    for path in list(FILES)[:2]:
        store.put_file_if_absent(f"x/{path}", folder / path)
    for read in (read_manifest, verify_tree, partial(download_tree, folder=tmp_path / "copy")):
        with pytest.raises(NotThere):
            read(store, "x")
    assert not (tmp_path / "copy").exists()
    upload_tree(store, folder, "x")
    assert contents_after_download(store, tmp_path) == FILES


def contents_after_download(store: Store, tmp_path: Path) -> dict[str, bytes]:
    download_tree(store, "x", tmp_path / "copy")
    return contents(tmp_path / "copy")


def test_an_upload_twice_is_one_tree(store: Store, folder: Path) -> None:
    assert upload_tree(store, folder, "x") == upload_tree(store, folder, "x")


def test_another_tree_is_never_mixed_in(store: Store, folder: Path, tmp_path: Path) -> None:
    upload_tree(store, folder, "x")
    for other in (FILES | {"more": b""}, FILES | {"log.txt": b"LINE\n"}):
        with pytest.raises(AlreadyThere, match="another tree"):
            upload_tree(store, written(tmp_path / "other", other), "x")
    assert verify_tree(store, "x") == digest_folder(folder)


def test_a_file_that_is_there_with_other_content_stops_the_upload(store: Store, folder: Path) -> None:
    store.put_if_absent("x/log.txt", b"LINE\n")
    with pytest.raises(AlreadyThere, match=r"log\.txt"):
        upload_tree(store, folder, "x")
    with pytest.raises(NotThere):
        read_manifest(store, "x")


def test_every_damaged_and_missing_file_is_named_at_once(kept: Kept, folder: Path, tmp_path: Path) -> None:
    upload_tree(kept.store, folder, "x")
    kept.overwrite("x/log.txt", b"LINE\n")
    kept.overwrite("x/adapter/weights.bin", b"short")
    kept.remove("x/empty")
    for read in (verify_tree, partial(download_tree, folder=tmp_path / "copy")):
        with pytest.raises(Corrupt) as error:
            read(kept.store, "x")
        assert [fault.where.rpartition("x/")[2] for fault in error.value.faults] == [
            "adapter/weights.bin",
            "empty",
            "log.txt",
        ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["tree"]


def test_a_manifest_that_leads_out_of_the_tree_is_corrupt(kept: Kept, folder: Path, tmp_path: Path) -> None:
    upload_tree(kept.store, folder, "x")
    body = kept.store.get("x/manifest.json").replace(b'"log.txt"', b'"../log.txt"')
    kept.store.put_if_absent("y/manifest.json", body)
    with pytest.raises(Corrupt, match=r"'\.\./log\.txt' is not a usable name"):
        download_tree(kept.store, "y", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "log.txt").exists()


def test_a_folder_that_holds_this_tree_is_kept_and_any_other_is_refused(folder: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    upload_tree(store, folder, "x")
    download_tree(store, "x", folder)
    (folder / "more").write_bytes(b"mine")
    with pytest.raises(BadData, match="holds something else"):
        download_tree(store, "x", folder)
    assert (folder / "more").read_bytes() == b"mine"


def test_an_empty_folder_may_be_filled(folder: Path, tmp_path: Path) -> None:
    store = Directory(tmp_path / "store")
    upload_tree(store, folder, "x")
    (tmp_path / "copy").mkdir()
    assert contents_after_download(store, tmp_path) == FILES


def test_what_cannot_be_stored_is_refused_all_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "link-to-folder").symlink_to(folder / "adapter")
    (folder / "link-to-nothing").symlink_to(tmp_path / "nothing")
    (folder / "new\nline").write_bytes(b"")
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(BadData) as error:
        upload_tree(Directory(tmp_path / "store"), folder, "x")
    assert len(error.value.faults) == 4
    assert not (tmp_path / "store").exists()


def test_a_link_to_a_file_is_stored_as_the_file(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to(folder / "log.txt")
    upload_tree(Directory(tmp_path / "store"), folder, "x")
    assert contents_after_download(Directory(tmp_path / "store"), tmp_path) == FILES | {"link": b"line\n"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="nowhere"):
        upload_tree(Directory(tmp_path / "store"), tmp_path / "nowhere", "x")


def test_equal_trees_have_equal_digests_and_others_do_not(folder: Path, tmp_path: Path) -> None:
    same = written(tmp_path / "same", dict(reversed(FILES.items())))
    other = written(tmp_path / "other", FILES | {"empty": b" "})
    assert tree_digest(digest_folder(folder)) == tree_digest(digest_folder(same))
    assert tree_digest(digest_folder(folder)) != tree_digest(digest_folder(other))
