"""Any bytes are an image of a size that can be decoded, or a fault; what the check reads, training reads too."""

from __future__ import annotations

import io
import os
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tandem.check.images import inspect_images
from tandem.errors import BadData
from tandem.model.images import MAX_PIXELS, open_image, probe_image
from tandem.model.tiles import count_tiles, cut_tiles
from tests.fuzz.damage import damaged_bytes, expect_clear, expect_clear_faults, fuzzing

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::UserWarning")]

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


@cache
def sound_images() -> list[bytes]:
    """A small image of every mode in every format that can hold it; animated, progressive, rotated ones too."""
    from PIL import Image

    found = []
    for mode in MODES:
        image = Image.new(mode, (23, 17), 1 if mode in ("1", "L", "P", "I", "F", "I;16", "I;16B") else None)
        for name in FORMATS:
            body = io.BytesIO()
            try:
                image.save(body, name)
            except (OSError, ValueError, KeyError):
                continue
            found.append(body.getvalue())
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [picture.rotate(90), picture]}
    ways: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": rotated, "quality": 5}),
        ("PNG", {"exif": rotated}),
        ("GIF", frames),
        ("WEBP", frames),
        ("WEBP", {"lossless": True}),
        ("PNG", frames),
        ("TIFF", frames),
        *(("TIFF", {"compression": kind}) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
    ]
    for name, options in ways:
        body = io.BytesIO()
        picture.save(body, name, **options)
        found.append(body.getvalue())
    return found


def inspect(path: Path) -> tuple[int, int] | None:
    """The size that the check finds; with a size, the image can be opened and cut into tiles."""
    try:
        size = probe_image(path)
    except BadData as error:
        expect_clear(error)
        return None
    image = open_image(path)
    assert image.size == size
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= MAX_PIXELS
    tiles = cut_tiles(image, max_tiles=2, tile_size=28)
    assert len(tiles) == count_tiles(*size, max_tiles=2, tile_size=28)
    return size


def test_every_sound_image_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    for body in sound_images():
        path.write_bytes(body)
        assert inspect(path) in ((23, 17), (40, 30))


@fuzzing(1000)
@given(st.integers(0, 10**6).map(lambda number: sound_images()[number % len(sound_images())]).flatmap(damaged_bytes))
@example(b"")
@example(b"a text with the name of an image\n")
def test_a_damaged_image_is_a_size_that_can_be_opened_or_one_fault(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(body)
    inspect(path)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, data: bytes = b"\0" * 1000) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    return b"BM" + header + b"\0" * 100


def jpeg_of_many_scans(scans: int) -> bytes:
    from PIL import Image

    body = io.BytesIO()
    Image.new("RGB", (64, 64)).save(body, "JPEG", progressive=True)
    whole = body.getvalue()
    start = whole.rindex(b"\xff\xda")
    return whole[:start] + whole[start:-2] * scans + whole[-2:]


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)


GREY = ((256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1))
BOMB = zlib.compress(b"\0" * 100_000_000)
HOSTILE = {
    "no pixels": png(0, 0),
    "no width": png(0, 5),
    "60,000 pixels a side": png(60_000, 60_000),
    "2^31 pixels a side": png(2**31 - 1, 2**31 - 1),
    "a text that unpacks to 100 MB": png(10, 10, chunk(b"zTXt", b"k\0\0" + BOMB)),
    "a profile that unpacks to 100 MB": png(10, 10, chunk(b"iCCP", b"k\0\0" + BOMB)),
    "many texts": png(10, 10, *[chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"\0" * 1_000_000))] * 100),
    "pixels that are not there": png(MAX_PIXELS, 1),
    "a negative size": bmp(-5, 5),
    "a GIF of no pixels": b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x00;",
    "a GIF whose frame lies outside": b"GIF89a\5\0\5\0\0\0\0," + b"\xff" * 8 + b"\0\x02\x02\x44\x01\x00;",
    "a width of 100,000 digits": b"P6 " + b"9" * 100_000 + b" 5 255\n",
    "a number of 1,000,000 digits": b"P3 2 2 255 " + b"1" * 1_000_000,
    "2^32 strips": tiff(*GREY, (273, 4, 2**32 - 1, 8), (277, 3, 1, 1), (278, 4, 1, 10), (279, 4, 2**32 - 1, 100)),
    "2^32 samples a pixel": tiff(*GREY, (273, 4, 1, 8), (277, 4, 1, 2**32 - 1), (278, 4, 1, 10), (279, 4, 1, 100)),
    "tiles of 60,000 pixels": tiff(*GREY, (277, 3, 1, 1), (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8)),
    "a place beyond any file": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    "a next page beyond any file": b"II+\0" + struct.pack("<HHQ", 8, 0, 2**63 - 1),
    "thousands of scans": jpeg_of_many_scans(3_000),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_image_made_to_do_harm_is_one_fault(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(body)
    assert inspect(path) is None


@pytest.mark.parametrize(
    ("body", "size"),
    [(png(10, 10, data=b"\0" * 50_000_000), (10, 10)), (jpeg_of_many_scans(20), (64, 64))],
    ids=["more pixels than declared", "some scans"],
)
def test_what_does_no_harm_is_read(tmp_path: Path, body: bytes, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(body)
    assert inspect(path) == size


def test_a_pipe_a_folder_and_names_that_cannot_be_are_faults(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = ("pipe.png", "folder.png", "loop.png", "x" * 5_000, "a\nb", "/dev/zero", "missing.png")
    found = inspect_images([tmp_path / name for name in names], cpu_count=1)
    assert len(found) == len(names)
    expect_clear_faults([facts.fault for facts in found.values() if facts.fault is not None])
    assert all(facts.code in ("image-missing", "image-unreadable") for facts in found.values())
