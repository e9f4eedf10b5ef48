"""A folder on a disk that is full, closed, or not what it should be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration, BadData, TandemError, Unavailable
from tandem.store import Directory, probe
from tandem.store.keys import INCOMING


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def left_over(root: Path) -> list[Path]:
    return list((root / INCOMING).iterdir())


@pytest.mark.parametrize(
    "refusal",
    [
        (errno.ENOSPC, BadConfiguration, "the disk is full"),
        (errno.EDQUOT, BadConfiguration, "the disk is full"),
        (errno.EACCES, BadConfiguration, "access is refused"),
        (errno.EROFS, BadConfiguration, "access is refused"),
        (errno.EIO, Unavailable, "input or output failed"),
        (errno.ESTALE, Unavailable, "input or output failed"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_disk_that_refuses_is_a_typed_line_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, type[TandemError], str], call: str
) -> None:
    number, kind, what = refusal

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(kind, match=what) as error:
        Directory(root).put_if_absent("a/key", b"body")
    assert str(root) in str(error.value)
    assert left_over(root) == []
    assert list(Directory(root).list("")) == []


def test_what_is_being_written_is_not_listed_and_goes_away_when_it_fails(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []
    store = Directory(root)

    def chunks() -> Iterator[bytes]:
        yield b"half"
        seen.append((len(left_over(root)), [entry.key for entry in store.list("")]))
        raise InterruptedError("stopped half-way")

    store.put_if_absent("first", b"")
    with pytest.raises(InterruptedError):
        store._put("second", chunks())
    assert seen == [(1, ["first"])]
    assert left_over(root) == []
    assert [entry.key for entry in store.list("")] == ["first"]


def test_a_store_that_is_a_file_is_wrong_configuration(root: Path) -> None:
    root.write_bytes(b"")
    for use in (lambda: probe(Directory(root)), lambda: list(Directory(root).list(""))):
        with pytest.raises(BadConfiguration, match="it is not a folder"):
            use()


def test_a_key_below_an_object_or_above_one_is_refused(root: Path) -> None:
    store = Directory(root)
    store.put_if_absent("a", b"")
    store.put_if_absent("b/c", b"")
    with pytest.raises(BadData):
        store.put_if_absent("a/b", b"")
    with pytest.raises(BadData):
        store.put_if_absent("b", b"")


def test_reading_creates_nothing(root: Path) -> None:
    assert list(Directory(root).list("")) == []
    assert not root.exists()


def test_files_get_the_rights_of_ordinary_files(root: Path) -> None:
    Directory(root).put_if_absent("key", b"")
    plain = root / "plain"
    plain.touch()
    assert (root / "key").stat().st_mode == plain.stat().st_mode
