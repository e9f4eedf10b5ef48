"""The contract of a store: what a bucket and a folder both promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tandem.errors import Fault, PermanentError


class AlreadyThere(PermanentError):
    """The key exists; put_if_absent has changed nothing."""

    code = "already-there"


class NotThere(PermanentError):
    """No object has this key."""

    exit_code = 65
    code = "not-there"


class Corrupt(PermanentError):
    """What is stored is not what was written: its SHA-256 or its size differs."""

    exit_code = 65
    code = "corrupt"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stored object as a listing shows it."""

    key: str
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One file of a tree: its size in bytes and its SHA-256 as 64 hex digits."""

    size: int
    sha256: str


class Store(Protocol):
    """Objects under slash-separated keys, written once and never changed.

    A key is a plain relative path; none is the folder of another (not both 'a' and 'a/b').
    Every method raises Unavailable (after its own retries with back-off) while the store is away,
    BadConfiguration for wrong credentials, a missing bucket or a folder that cannot be written, and BadData
    for a key that cannot be used. All methods may be called from several threads.
    """

    @property
    def url(self) -> str:
        """The address that opens this store again: file:///... or s3://bucket/prefix."""
        ...

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Write the object atomically. Raises AlreadyThere if the key exists: of many writers one wins."""
        ...

    def put_file_if_absent(self, key: str, path: Path) -> FileDigest:
        """The same for a file of any size, streamed; returns what was read while it was written."""
        ...

    def get(self, key: str) -> bytes:
        """Read a whole object. Raises NotThere, and Corrupt where the store itself can tell.

        What is read so is in memory: Corrupt is also one of more than LARGEST_READ bytes.
        """
        ...

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """Stream an object into a file that appears (or is replaced) only when whole and right.

        Raises NotThere, and Corrupt if size or SHA-256 differ.
        """
        ...

    def digest(self, key: str) -> FileDigest:
        """Read the whole object again and say what it holds. Raises NotThere."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with the prefix (any string, not only a folder), in key order."""
        ...

    def list_folders(self, folder: str) -> Iterator[str]:
        """The names right below a folder ('' or ending in a slash) that have objects below them, in order.

        It does not look at what lies in them.
        """
        ...


LARGEST_READ = 2**30
"""Bytes of an object that is read whole: a record, or predictions in parts, which have some megabytes."""


def refuse_giant(size: int, *, where: str) -> None:
    """Raise Corrupt for an object that is too large to be read whole."""
    if size > LARGEST_READ:
        what, remedy = f"it has {size} bytes, and {LARGEST_READ} are the most", "Something else wrote it: do not use it"
        raise Corrupt(Fault(where=where, what=what, remedy=remedy))


Manifest = dict[str, FileDigest]
"""Relative path -> digest of every file of a tree. It is stored as manifest.json, after all the files."""
