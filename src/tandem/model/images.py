"""Opening images: a broken or hostile file is one clear fault, never a crash and never half an image."""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from tandem.errors import BadData, Fault, TandemError, Unavailable

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""Width times height that is still decoded: Pillow's own warning limit, 256 MiB as RGB."""

LARGEST_FILE = 2**30
"""Bytes; some formats are read whole before they are decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Raster formats that Pillow decodes by itself; others (EPS, for one) would start foreign programs."""

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
"""Of formats that every server of images reads; MPO is what Pillow calls a JPEG with further pictures behind it."""

_MOST_SCANS = 250
"""Progressive JPEGs have about ten, in each of a file's previews too."""
_START_OF_SCAN = b"\xff\xda"
"""The marker; in compressed data no byte of 255 is followed by this one."""
_CHUNK = 2**20

_LASTING = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EISDIR: "is a folder",
    errno.EACCES: "may not be read by this user",
    errno.EPERM: "may not be read by this user",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENAMETOOLONG: "has a name that the file system does not allow",
}
_NOT_A_PLACE = (errno.EINVAL, errno.EOVERFLOW)
"""What the system answers where a broken file sends its reader to a place that no file has."""
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError, AttributeError,
    RuntimeError, MemoryError, ArithmeticError, AssertionError, struct.error, zlib.error,
)  # fmt: skip

_T = TypeVar("_T")


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS, place: str = "") -> Image.Image:
    """Decode a whole image as RGB; of an animation, the first frame.

    EXIF orientation is left alone, as InternVL's own `pil_loader` leaves it.
    `place` says who asks for it (a file and line) and stands in the fault.
    Raises BadData for a file that is missing, of an unknown format, truncated, or of more than `max_pixels`;
    Unavailable if the file system fails.
    """

    def decode(image: Image.Image) -> Image.Image:
        return image.convert("RGB")

    return _with_image(path, decode, max_pixels=max_pixels, place=place)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A sound image, as one look at all of it shows it."""

    width: int
    """Pixels."""
    height: int
    clipped: bool
    """Whether it has values above 255, as 16-bit greys may: as RGB, which the model sees, they are all white."""


def look_at_image(path: Path, *, max_pixels: int = MAX_PIXELS, place: str = "") -> Look:
    """Read all of an image; raises as `open_image`."""

    def look(image: Image.Image) -> Look:
        width, height = image.size
        _read_all(image)
        return Look(width=width, height=height, clipped=_is_clipped(image))

    return _with_image(path, look, max_pixels=max_pixels, place=place)


def probe_image(path: Path, *, max_pixels: int = MAX_PIXELS, place: str = "") -> tuple[int, int]:
    """Read all of an image and return its (width, height) in pixels; raises as `open_image`."""
    look = look_at_image(path, max_pixels=max_pixels, place=place)
    return look.width, look.height


def load_encoded(path: Path, *, max_pixels: int = MAX_PIXELS, place: str = "") -> tuple[str, bytes]:
    """An image as it is sent to a server: its media type and its bytes; raises as `open_image`.

    Files in one of MEDIA_TYPES are sent as they are, to the byte; others become PNGs of the same RGB pixels.
    """

    def encode(image: Image.Image) -> tuple[str, bytes]:
        kind = MEDIA_TYPES.get(image.format or "")
        if kind is not None:
            _read_all(image)
            return kind, path.read_bytes()
        stream = BytesIO()
        image.convert("RGB").save(stream, "PNG")
        return MEDIA_TYPES["PNG"], stream.getvalue()

    return _with_image(path, encode, max_pixels=max_pixels, place=place)


def _read_all(image: Image.Image) -> None:
    """Meet every byte; a JPEG is decoded at an eighth of its size, which is several times faster."""
    width, height = image.size
    image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
    image.load()


def _is_clipped(image: Image.Image) -> bool:
    if not image.mode.startswith(("I", "F")):
        return False
    highest = (image if image.mode == "F" else image.convert("I")).getextrema()[1]  # not every I;16 knows its own
    return isinstance(highest, int | float) and highest > 255


def _with_image(path: Path, use: Callable[[Image.Image], _T], *, max_pixels: int, place: str) -> _T:
    from PIL import Image, UnidentifiedImageError

    _quiet_pillow()
    where = f"{place}: {path}" if place else str(path)
    try:
        _refuse_endless(path, where)
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadData(_too_large(where, f"{width} x {height} pixels are", max_pixels))
            if image.format in ("JPEG", "MPO"):
                _refuse_many_scans(stream, where)
            return use(image)
    except UnidentifiedImageError:
        raise BadData(
            Fault(
                where=where,
                what="the file is not an image of a known format, or its header is broken",
                remedy=f"Use one of {', '.join(FORMATS)}.",
            )
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadData(_too_large(where, "its pixels are", max_pixels)) from None
    except _DECODER_ERRORS as error:
        raise _translate(error, where) from error


@cache
def _quiet_pillow() -> None:
    """Leave it to our faults to say what is wrong with an image: Pillow warns of some of it, and goes on."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _refuse_endless(path: Path, where: str) -> None:
    """Refuse a pipe or a device, whose reading may never end, and a giant. Raises OSError if there is nothing."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise BadData(Fault(where=where, what="is a pipe or a device", remedy="Name an image's file."))
    if found.st_size > LARGEST_FILE:
        what = f"has {found.st_size} bytes, more than any image of {MAX_PIXELS} pixels"
        raise BadData(Fault(where=where, what=what, remedy="Export it again."))


def _refuse_many_scans(stream: BinaryIO, where: str) -> None:
    """Refuse a JPEG whose pixels are sent in very many passes: each of them takes some bytes, and all pixels' time."""
    position = stream.seek(0, os.SEEK_CUR)
    stream.seek(0)
    scans, last = 0, b""
    while chunk := stream.read(_CHUNK):
        scans += (last + chunk).count(_START_OF_SCAN)
        last = chunk[-1:]
        if scans > _MOST_SCANS:
            what = f"the JPEG has more than {_MOST_SCANS} scans"
            raise BadData(Fault(where=where, what=what, remedy="Export it again, as a baseline JPEG."))
    stream.seek(position)


def _too_large(where: str, what: str, max_pixels: int) -> Fault:
    return Fault(
        where=where,
        what=f"{what} more than the {max_pixels} that are decoded",
        remedy="Shrink the image: the model sees at most a few tiles of it.",
    )


def _translate(error: Exception, where: str) -> TandemError:
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number in _NOT_A_PLACE:
        what = f"the image is truncated or broken ({str(error) or type(error).__name__})"
        return BadData(Fault(where=where, what=what, remedy="Copy or export it again."))
    if number in _LASTING:
        what = f"the image {_LASTING[number]}"
        remedy = "Correct the path or put the file there."
        if "\\" in where:
            remedy = "Write / between folders, as everywhere but on Windows."
        return BadData(Fault(where=where, what=what, remedy=remedy))
    return Unavailable(Fault(where=where, what=f"reading failed: {error}", remedy="Try again; check the disk."))
