"""Cutting a file into the parts of a multipart upload, so that what is sent is what was hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import Fault
from tandem.store.contract import Corrupt, FileDigest
from tandem.store.files import typed_os_errors

_MOST_PARTS = 10_000
"""S3's limit for one object."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a file, as it was when the file was hashed."""

    path: Path
    number: int
    """From 1."""
    start: int
    """Offset in bytes."""
    size: int
    """Bytes."""
    sha256: str

    def read(self) -> bytes:
        """The part's bytes. Raises Corrupt if the file has changed since it was cut."""
        with typed_os_errors(str(self.path)), self.path.open("rb") as source:
            source.seek(self.start)
            body = source.read(self.size)
        if hashlib.sha256(body).hexdigest() != self.sha256:
            remedy = "Store the file when nothing writes to it any more"
            raise Corrupt(Fault(where=str(self.path), what="the file changed while it went up", remedy=remedy))
        return body


def cut(path: Path, part_bytes: int) -> tuple[list[Part], FileDigest]:
    """At least one part, each of part_bytes (or more, where there would be too many), and the file's digest.

    Raises the typed errors of typed_os_errors.
    """
    parts: list[Part] = []
    whole, start = hashlib.sha256(), 0
    with typed_os_errors(str(path)), path.open("rb") as source:
        size = path.stat().st_size
        step = max(part_bytes, -(-size // _MOST_PARTS))
        while (body := source.read(step)) or not parts:
            sha256 = hashlib.sha256(body).hexdigest()
            parts.append(Part(path=path, number=len(parts) + 1, start=start, size=len(body), sha256=sha256))
            whole.update(body)
            start += len(body)
    return parts, FileDigest(size=start, sha256=whole.hexdigest())
