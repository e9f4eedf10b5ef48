import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tandem.errors import BadData, Unavailable
from tandem.model.images import look_at_image, open_image, probe_image

IMAGES = Path(__file__).parents[1] / "golden" / "internvl" / "images"
NAMES = sorted(path.name for path in IMAGES.iterdir())
READERS = pytest.mark.parametrize("read", [open_image, probe_image])
Reader = Callable[..., object]


@pytest.mark.parametrize("name", NAMES)
def test_images_of_every_mode_open_as_rgb_and_have_the_size_that_probing_says(name: str) -> None:
    image = open_image(IMAGES / name)
    assert image.mode == "RGB"
    assert image.size == probe_image(IMAGES / name) == Image.open(IMAGES / name).size
    assert image.tobytes() == Image.open(IMAGES / name).convert("RGB").tobytes()


@READERS
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
def test_a_truncated_image_is_a_fault_that_names_sample_and_file(read: Reader, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image.effect_noise((90, 70), 60).convert("RGB").save(path, format=kind)
    assert read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BadData) as raised:
        read(path, place="train.jsonl:7")
    assert raised.value.faults[0].where == f"train.jsonl:7: {path}"


@READERS
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_raster_image_is_a_fault(read: Reader, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(BadData, match="not an image of a known format"):
        read(path)


@READERS
def test_missing_files_folders_and_impossible_names_are_faults(read: Reader, tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "does not allow"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(BadData, match=what):
            read(path)


@READERS
def test_a_failing_disk_is_worth_another_try(read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, os.strerror(5))

    (tmp_path / "image.png").touch()
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        read(tmp_path / "image.png")


@READERS
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (300, 200)).save(path)
    assert read(path, max_pixels=60_000)
    with pytest.raises(BadData, match="300 x 200 pixels are more than the 59999"):
        read(path, max_pixels=59_999)


@READERS
def test_a_decompression_bomb_is_a_fault(read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    Image.new("1", (1, 1)).save(path)
    header = bytearray(path.read_bytes())
    header[18:26] = (60_000).to_bytes(4, "little") * 2
    path.write_bytes(header)
    with pytest.raises(BadData, match="more than the"):
        read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=8),
    st.one_of(st.none(), st.integers(0, 20_000)),
)
def test_a_damaged_file_is_an_image_or_a_fault_and_never_anything_else(
    tmp_path: Path, name: str, changes: list[tuple[int, int]], end: int | None
) -> None:
    damaged = bytearray((IMAGES / name).read_bytes())
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    path = tmp_path / "damaged"
    path.write_bytes(damaged[:end])
    for read in (open_image, probe_image):
        with contextlib.suppress(BadData):
            assert read(path, max_pixels=1_000_000)


@given(st.integers(1, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_probing_a_jpeg_misses_no_truncation_that_opening_finds(tmp_path: Path, percent: int) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, format="JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * percent // 100])
    for read in (open_image, probe_image):
        with pytest.raises(BadData):
            read(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_turns_nothing_as_in_the_original(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.png"
    image = Image.effect_noise((30, 20), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    assert probe_image(path) == (30, 20)
    assert open_image(path).tobytes() == image.tobytes()


@pytest.mark.parametrize(("mode", "shade", "told"), [("I;16", 256, True), ("I;16", 255, False), ("L", 255, False)])
def test_shades_beyond_255_are_known_for_they_become_white(mode: str, shade: int, told: bool, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.new(mode, (8, 8), shade).save(path)
    assert look_at_image(path).clipped is told
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_a_path_of_windows_is_told_how_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"does not exist\. Write / between folders"):
        open_image(tmp_path / "folder\\a.png")
