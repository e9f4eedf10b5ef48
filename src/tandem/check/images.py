"""Reading every image once, whole: its size, its content's digest, or what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import Fault, TandemError, Unavailable
from tandem.model.images import look_at_image

_THREADS_PER_CORE = 2
"""Reading waits for the disk while decoding holds a core. Threads, because Pillow decodes without the interpreter's
lock: on two cores they were faster than processes, which have to start and import first."""
_MOST_THREADS = 32
"""Each may hold one decoded image, of up to 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """One image file as it was found."""

    width: int = 0
    """Pixels; 0 if the image is not usable."""
    height: int = 0
    clipped: bool = False
    """Whether the model would see values as white that are not."""
    sha256: str | None = None
    """Digest of the file's bytes; None if the image is not usable."""
    code: str | None = None
    """What kind of fault it has: image-missing, image-unreadable or image-unavailable. None: it is sound."""
    fault: Fault | None = None


def inspect_images(paths: Iterable[Path], *, cpu_count: int) -> dict[Path, ImageFacts]:
    """Decode and hash each distinct image file."""
    distinct = sorted(set(paths))
    threads = min(_MOST_THREADS, max(1, cpu_count) * _THREADS_PER_CORE)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return dict(zip(distinct, pool.map(_inspect, distinct), strict=True))


def _inspect(path: Path) -> ImageFacts:
    try:
        look = look_at_image(path)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except TandemError as error:
        return ImageFacts(code=_code(path, error), fault=error.faults[0])
    except OSError as error:
        fault = Fault(where=str(path), what=f"reading failed: {error}", remedy="Try again; check the disk.")
        return ImageFacts(code="image-unavailable", fault=fault)
    return ImageFacts(width=look.width, height=look.height, clipped=look.clipped, sha256=sha256)


def _code(path: Path, error: TandemError) -> str:
    if isinstance(error, Unavailable):
        return "image-unavailable"
    try:
        path.stat()
    except OSError:  # also for a name that the file system does not allow
        return "image-missing"
    return "image-unreadable"
