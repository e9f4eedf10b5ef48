"""A folder as a store: an object is a file, and os.link decides who was first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.store.contract import AlreadyThere, Entry, FileDigest, NotThere, refuse_giant
from tandem.store.files import digest_of_chunks, read_chunks, receive, typed_os_errors, written_aside
from tandem.store.keys import INCOMING, check_folder, check_key, check_prefix


class Directory:
    """The Store in a local folder, which the first write creates. It needs hard links, as POSIX has them."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        """The address that opens this store again: file:///..."""
        return self._root.as_uri()

    def put_if_absent(self, key: str, body: bytes) -> None:
        """See Store."""
        self._put(key, [body])

    def put_file_if_absent(self, key: str, path: Path) -> FileDigest:
        """See Store. Raises BadData if the file cannot be read."""
        return self._put(key, read_chunks(path, where=str(path)))

    def get(self, key: str) -> bytes:
        """See Store."""
        chunks = self._read(key)
        with typed_os_errors(self._where(key)):
            size = self._path(key).stat().st_size
        refuse_giant(size, where=self._where(key))
        return b"".join(chunks)

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """See Store."""
        receive(path, self._read(key), expected, where=self._where(key))

    def digest(self, key: str) -> FileDigest:
        """See Store."""
        return digest_of_chunks(self._read(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        check_prefix(prefix, where=self.url)
        with typed_os_errors(self._where(prefix)):
            self._require_folder()
            found = sorted(self._walk(prefix), key=lambda entry: entry.key)
        yield from found

    def list_folders(self, folder: str) -> Iterator[str]:
        """See Store. What was broken off before its first object leaves an empty folder, which is named too."""
        check_folder(folder, where=self.url)
        with typed_os_errors(self._where(folder)):
            self._require_folder()
            place = self._root / folder
            names = sorted(entry.name for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
        yield from (name for name in names if folder or name != INCOMING)

    def _put(self, key: str, chunks: Iterable[bytes]) -> FileDigest:
        target = self._path(key)
        with typed_os_errors(self._where(key)):
            self._require_folder()
            if target.exists():  # Spares the copy; os.link below is what decides.
                raise self._taken(key, target)
        with written_aside(self._root / INCOMING, chunks) as (aside, digest), typed_os_errors(self._where(key)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(aside, target)
            except FileExistsError:
                raise self._taken(key, target) from None
            _flush_folder(target.parent)
        return digest

    def _taken(self, key: str, target: Path) -> AlreadyThere | BadData:
        if target.is_dir():
            what = "it is the folder of other objects"
            return BadData(Fault(where=self._where(key), what=what, remedy="Choose another key"))
        remedy = "Objects are never overwritten: choose another key, or use what is there"
        return AlreadyThere(Fault(where=self._where(key), what="the object exists already", remedy=remedy))

    def _read(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with typed_os_errors(self._where(key)):
            there = path.is_file()
        if not there:
            remedy = "Check the key and the address of the store"
            raise NotThere(Fault(where=self._where(key), what="there is no such object", remedy=remedy))
        return read_chunks(path, where=self._where(key))

    def _require_folder(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            remedy = "Name a folder as the store"
            raise BadConfiguration(Fault(where=str(self._root), what="it is not a folder", remedy=remedy))

    def _walk(self, prefix: str) -> Iterator[Entry]:
        start = self._root / prefix.rpartition("/")[0]
        for folder, subfolders, names in os.walk(start, onerror=_raise_unless_missing):
            below = Path(folder).relative_to(self._root)
            if below == Path():
                with suppress(ValueError):
                    subfolders.remove(INCOMING)
            for name in names:
                key = (below / name).as_posix()
                if key.startswith(prefix):
                    yield Entry(key=key, size=(Path(folder) / name).stat().st_size)

    def _path(self, key: str) -> Path:
        check_key(key, where=self.url)
        return self._root / key

    def _where(self, key: str) -> str:
        return str(self._root / key)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
