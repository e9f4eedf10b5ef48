from __future__ import annotations

from pathlib import Path

from tandem.stage.prebuilt import offer_prebuilt


def test_what_the_image_brings_is_put_into_tritons_cache_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "image" / "key").mkdir(parents=True)
    (tmp_path / "image" / "key" / "cuda_utils.so").write_bytes(b"built")
    (tmp_path / "cache" / "other").mkdir(parents=True)
    environment = {"TANDEM_TRITON": str(tmp_path / "image"), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        offer_prebuilt(environment)
    assert (tmp_path / "cache" / "key" / "cuda_utils.so").read_bytes() == b"built"
    assert (tmp_path / "cache" / "other").is_dir()


def test_outside_an_image_nothing_is_copied() -> None:
    offer_prebuilt({})
