"""What every store promises, on a folder, on moto and on a real S3 server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tandem.errors import BadData
from tandem.store import AlreadyThere, Corrupt, FileDigest, NotThere, Store, open_store, probe
from tandem.store.parallel import in_parallel
from tests.store.conftest import Kept

BIG = 20 * 1024 * 1024 + 12_345


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "weights.bin"
    path.write_bytes(hashlib.shake_128(b"weights").digest(BIG))
    return path


def digest(body: bytes) -> FileDigest:
    return FileDigest(size=len(body), sha256=hashlib.sha256(body).hexdigest())


def race(writers: int, write: Callable[[int], object]) -> list[bool]:
    """Whether each of the writers won; all start at once."""
    barrier = threading.Barrier(writers)

    def one(number: int) -> bool:
        barrier.wait()
        try:
            write(number)
        except AlreadyThere:
            return False
        return True

    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(one, range(writers)))


def write_number(store: Store, key: str, number: int) -> None:
    store.put_if_absent(key, b"writer %d" % number)


def test_what_was_put_is_what_one_gets(store: Store) -> None:
    store.put_if_absent("a/b.json", b"one")
    assert store.get("a/b.json") == b"one"
    assert store.digest("a/b.json") == digest(b"one")


@pytest.mark.parametrize("body", [b"", b"\0", b"\r\n\xff" * 1000])
def test_bodies_of_any_bytes_come_back(store: Store, tmp_path: Path, body: bytes) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(body)
    assert store.put_file_if_absent("file", source) == digest(body)
    store.put_if_absent("object", body)
    assert store.get("file") == store.get("object") == body
    store.get_file("object", target, digest(body))
    assert target.read_bytes() == body
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_second_write_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"two")
    store.put_if_absent("key", b"one")
    with pytest.raises(AlreadyThere, match="key"):
        store.put_if_absent("key", b"two")
    with pytest.raises(AlreadyThere, match="key"):
        store.put_if_absent("key", b"one")
    with pytest.raises(AlreadyThere, match="key"):
        store.put_file_if_absent("key", other)
    assert store.get("key") == b"one"


def test_of_16_writers_one_wins(store: Store) -> None:
    for turn in range(5):
        key = f"race/{turn}"
        won = race(16, partial(write_number, store, key))
        assert won.count(True) == 1
        assert store.get(key) == b"writer %d" % won.index(True)


def test_of_4_writers_of_a_big_file_one_wins(store: Store, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]) * (6 * 1024 * 1024))
    won = race(4, lambda number: store.put_file_if_absent("big", tmp_path / str(number)))
    assert won.count(True) == 1
    assert store.get("big")[:1] == bytes([won.index(True)])


def test_a_big_file_comes_back_whole(store: Store, big_file: Path, tmp_path: Path) -> None:
    expected = digest(big_file.read_bytes())
    assert store.put_file_if_absent("weights", big_file) == expected
    assert store.digest("weights") == expected
    store.get_file("weights", tmp_path / "weights", expected)
    assert (tmp_path / "weights").read_bytes() == big_file.read_bytes()
    with pytest.raises(AlreadyThere):
        store.put_file_if_absent("weights", big_file)


def test_keys_may_have_any_script_and_signs(store: Store) -> None:
    keys = ["ü/漢字/😀", "with space", "plus+percent%20&=?#", "quote'\"<>", "-dash", "a.b/..c", "e\u0301"]
    for key in keys:
        store.put_if_absent(key, key.encode())
    assert [entry.key for entry in store.list("")] == sorted(keys)
    assert [store.get(key).decode() for key in keys] == keys


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\nb", "a\\b", "\ud800", "x" * 2000])
def test_unusable_keys_are_refused(store: Store, key: str) -> None:
    for use in (lambda: store.put_if_absent(key, b""), lambda: store.get(key), lambda: store.digest(key)):
        with pytest.raises(BadData, match="is not a usable name"):
            use()


def test_the_folder_of_an_object_is_no_object(kept: Kept) -> None:
    kept.store.put_if_absent("a/b", b"")
    with pytest.raises(NotThere):
        kept.store.get("a")


def test_an_object_that_is_too_large_to_be_read_whole_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_if_absent("giant", b"12345")
    monkeypatch.setattr("tandem.store.contract.LARGEST_READ", 4)
    with pytest.raises(Corrupt, match="it has 5 bytes, and 4 are the most"):
        store.get("giant")


def test_a_listing_is_in_key_order_and_knows_sizes(store: Store) -> None:
    for key in ["z", "a/b", "a.txt", "a-b", "a0", "aa/x/y", "a/a/a"]:
        store.put_if_absent(key, b"x" * len(key))
    assert [entry.key for entry in store.list("")] == ["a-b", "a.txt", "a/a/a", "a/b", "a0", "aa/x/y", "z"]
    assert [(entry.key, entry.size) for entry in store.list("a/")] == [("a/a/a", 5), ("a/b", 3)]
    assert [entry.key for entry in store.list("a")] == ["a-b", "a.txt", "a/a/a", "a/b", "a0", "aa/x/y"]
    assert [entry.key for entry in store.list("a/b")] == ["a/b"]
    assert list(store.list("nothing/like/it")) == []


def test_the_folders_below_a_folder_are_named_without_looking_into_them(store: Store) -> None:
    for key in ["runs/b/run.json", "runs/b/train/log", "runs/a-1/x", "runs/note", "top", "other/x"]:
        store.put_if_absent(key, b"")
    assert list(store.list_folders("runs/")) == ["a-1", "b"]
    assert list(store.list_folders("runs/b/")) == ["train"]
    assert list(store.list_folders("")) == ["other", "runs"]
    assert list(store.list_folders("nothing/")) == []
    for wrong in ("runs", "/", "a//", "../"):
        with pytest.raises(BadData):
            list(store.list_folders(wrong))


def test_a_listing_of_more_than_a_thousand_is_complete(store: Store) -> None:
    keys = [f"many/{number:04d}" for number in range(1005)]
    in_parallel(lambda key: store.put_if_absent(key, b""), keys, 8)
    assert [entry.key for entry in store.list("many/")] == keys


def test_what_is_not_there_is_a_typed_error(store: Store, tmp_path: Path) -> None:
    for use in (
        lambda: store.get("nothing"),
        lambda: store.digest("nothing"),
        lambda: store.get_file("nothing", tmp_path / "x", digest(b"")),
    ):
        with pytest.raises(NotThere, match="nothing"):
            use()
    assert not (tmp_path / "x").exists()


def test_a_changed_object_never_becomes_a_file(kept: Kept, tmp_path: Path) -> None:
    kept.store.put_if_absent("key", b"right")
    for tampered in (b"wrong", b"right and more", b""):
        kept.overwrite("key", tampered)
        with pytest.raises(Corrupt, match="key"):
            kept.store.get_file("key", tmp_path / "new", digest(b"right"))
    assert list(tmp_path.glob("new*")) == []
    assert list(tmp_path.glob(".incoming*")) == []


def test_a_local_file_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no-such-file"):
        store.put_file_if_absent("key", tmp_path / "no-such-file")
    assert list(store.list("")) == []


def test_the_probe_accepts_it_again_and_again_and_leaves_one_object(store: Store) -> None:
    for _ in range(3):
        probe(store)
    assert [entry.key for entry in store.list("")] == [".probe/put-if-absent"]


def test_its_address_opens_it_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.store.put_if_absent("key", b"body")
    for name, value in kept.environment.items():
        monkeypatch.setenv(name, value)
    again = open_store(kept.store.url)
    assert again.url == kept.store.url
    assert again.get("key") == b"body"
