"""What can be said of the images without building them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "Dockerfile.train", ROOT / "Dockerfile.eval", ROOT / "images" / "controller.Dockerfile")
END = "# end of the shared part"


def test_training_and_evaluation_begin_with_the_same_lines_so_that_they_share_the_layer_with_torch() -> None:
    train, evaluation = (file.read_text().partition(END) for file in FILES[:2])
    assert train[1] == evaluation[1] == END
    assert train[0] == evaluation[0]
    assert "locks/model.txt" in train[0]


def test_what_every_model_image_holds_is_locked_the_same_for_both() -> None:
    shared, train, evaluation = (read_lock(name) for name in ("model", "train", "eval"))
    assert shared <= train
    assert shared <= evaluation


def read_lock(name: str) -> set[str]:
    return set(re.findall(r"^[a-z0-9._-]+==\S+", (ROOT / "locks" / f"{name}.txt").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_is_installed_from_a_lock_with_hashes(file: Path) -> None:
    installs = [line for line in file.read_text().splitlines() if "uv pip install" in line]
    assert installs
    assert all("--require-hashes" in line or "--offline /opt/wheel" in line for line in installs)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_version_of_uv_is_the_makefiles(file: Path) -> None:
    wanted = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert wanted is not None
    assert set(re.findall(r"^ARG UV_VERSION=(\S+)$", file.read_text(), flags=re.MULTILINE)) == {wanted[1]}
