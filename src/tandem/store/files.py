"""Local files: hashed while they stream, visible only when whole, with typed errors."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tandem.errors import BadConfiguration, BadData, Fault, TandemError, Unavailable
from tandem.store.contract import Corrupt, FileDigest

CHUNK = 1024 * 1024
"""Bytes read at once."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISPLACED = {errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


@contextmanager
def typed_os_errors(where: str) -> Iterator[None]:
    """Turn an OSError into a typed error that names the place.

    A full or read-only disk is BadConfiguration, a file that is not there or not a file is BadData, and
    what may pass by itself (a network file system that hangs) is Unavailable.
    """
    try:
        yield
    except OSError as error:
        raise _typed(error, where) from error


def _typed(error: OSError, where: str) -> TandemError:
    what = error.strerror or str(error)
    if error.errno in _FULL:
        return BadConfiguration(Fault(where=where, what=f"the disk is full ({what})", remedy="Make room on it"))
    if error.errno in _CLOSED:
        remedy = "Give this user the rights to it, or choose another folder"
        return BadConfiguration(Fault(where=where, what=f"access is refused ({what})", remedy=remedy))
    if error.errno in _MISPLACED:
        remedy = "Check the path: a readable file or folder is expected there"
        return BadData(Fault(where=where, what=f"it cannot be used as a file or folder ({what})", remedy=remedy))
    return Unavailable(Fault(where=where, what=f"input or output failed ({what})", remedy="Try again"))


def digest_of(body: bytes) -> FileDigest:
    """Size and SHA-256 of bytes in memory."""
    return FileDigest(size=len(body), sha256=hashlib.sha256(body).hexdigest())


def digest_of_chunks(chunks: Iterable[bytes]) -> FileDigest:
    """Size and SHA-256 of a stream."""
    size, sha256 = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        sha256.update(chunk)
    return FileDigest(size=size, sha256=sha256.hexdigest())


def read_chunks(path: Path, *, where: str) -> Iterator[bytes]:
    """The file's bytes in order. Raises the typed errors of typed_os_errors."""
    with typed_os_errors(where), path.open("rb") as source:
        while chunk := source.read(CHUNK):
            yield chunk


def digest_file(path: Path) -> FileDigest:
    """Size and SHA-256 of a local file. Raises the typed errors of typed_os_errors."""
    return digest_of_chunks(read_chunks(path, where=str(path)))


@contextmanager
def written_aside(folder: Path, chunks: Iterable[bytes]) -> Iterator[tuple[Path, FileDigest]]:
    """Write a stream to a file of its own in folder: on disk when the block starts, gone when it ends.

    Raises the typed errors of typed_os_errors, and whatever the stream raises.
    """
    aside = folder / f".incoming-{secrets.token_hex(16)}"
    try:
        with typed_os_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            out = aside.open("xb")
        with out:
            digest = digest_of_chunks(_copied(chunks, out, where=str(folder)))
            with typed_os_errors(str(folder)):
                out.flush()
                os.fsync(out.fileno())
        yield aside, digest
    finally:
        aside.unlink(missing_ok=True)


def _copied(chunks: Iterable[bytes], out: BinaryIO, *, where: str) -> Iterator[bytes]:
    for chunk in chunks:
        with typed_os_errors(where):
            out.write(chunk)
        yield chunk


def receive(path: Path, chunks: Iterable[bytes], expected: FileDigest, *, where: str) -> None:
    """Write a stream to path, which appears only when its size and SHA-256 are the expected ones.

    Raises Corrupt, naming where the stream comes from, and the typed errors of typed_os_errors.
    """
    with written_aside(path.parent, chunks) as (aside, found):
        require_equal(found, expected, where=where)
        with typed_os_errors(str(path)):
            aside.replace(path)


def require_equal(found: FileDigest, expected: FileDigest, *, where: str) -> None:
    """Raise Corrupt unless both digests are the same."""
    if found != expected:
        what = (
            f"it holds {found.size} bytes with SHA-256 {found.sha256}, "
            f"not {expected.size} bytes with SHA-256 {expected.sha256}"
        )
        remedy = "It was changed or damaged after it was written: do not use it"
        raise Corrupt(Fault(where=where, what=what, remedy=remedy))
