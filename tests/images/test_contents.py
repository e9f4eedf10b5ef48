"""What the real images hold, and what they must not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.images.built import BUILDAH, KINDS, build_images

COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "make", "cmake", "nvcc", "ld", "as", "rustc", "cargo", "go")
INSTALLERS = ("uv", "uvx", "conda", "poetry", "git")
SECRETS = ("pip.conf", "uv.toml", ".netrc", "ca.crt", ".env", "id_rsa", "credentials")
LEFTOVERS = (
    "var/lib/apt/lists/*",
    "root/.cache",
    "tmp/*",
    "var/cache/uv/*",
    "run/secrets/*",
    "source",
    "opt/uv",
    "wheel",
)
SECONDS = 1200


@dataclass(frozen=True, kw_only=True)
class Image:
    """One built image, its file system mounted."""

    kind: str
    root: Path
    config: dict[str, Any]
    layers: list[str]

    def files(self) -> Iterator[Path]:
        return (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())


def buildah(*arguments: str) -> str:
    done = subprocess.run([BUILDAH, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    opened: dict[str, str] = {}
    try:
        found: dict[str, Image] = {}
        for kind, name in build_images().items():
            container = opened[kind] = buildah("from", "--pull-never", f"localhost/{name}")
            described = json.loads(buildah("inspect", "--type", "image", f"localhost/{name}"))["OCIv1"]
            root = Path(buildah("mount", container))
            found[kind] = Image(
                kind=kind, root=root, config=described["config"], layers=described["rootfs"]["diff_ids"]
            )
        yield found
    finally:
        for container in opened.values():
            buildah("rm", container)


@pytest.fixture(params=KINDS)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    return images[request.param]


@pytest.mark.timeout(SECONDS)
def test_no_compiler_installer_or_secret_is_left_in_an_image(image: Image) -> None:
    forbidden = {*COMPILERS, *INSTALLERS, *SECRETS}
    programs = ("bin", "sbin")
    found = [
        path
        for path in image.files()
        if path.name in forbidden and (path.parent.name in programs or path.name in SECRETS)
    ]
    assert not found
    assert not [path for pattern in LEFTOVERS for path in image.root.glob(pattern)]


def test_no_image_holds_tests_or_history(image: Image) -> None:
    package = next(image.root.glob("opt/tandem/lib/python3*/site-packages/tandem"))
    assert not (package.parent / "tests").exists()
    assert not list(image.root.glob("**/.git"))


def test_an_image_runs_as_a_numeric_user_under_tini_and_says_which_commit_it_is(image: Image) -> None:
    assert image.config["User"] == "10001:10001"
    assert image.config["Entrypoint"] == ["tini", "--", "tandem"]
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"tandem-{image.kind}"
    assert len(labels["org.opencontainers.image.revision"].removesuffix("-dirty")) == 40
    assert labels["org.opencontainers.image.version"] != "unknown"


def test_modules_are_compiled_when_the_image_is_built_because_its_root_is_read_only(image: Image) -> None:
    package = next(image.root.glob("opt/tandem/lib/python3*/site-packages/tandem"))
    assert list(package.glob("__pycache__/errors.*.pyc"))


def test_the_controllers_image_has_no_torch(images: dict[str, Image]) -> None:
    packages = {path.name for path in images["controller"].root.glob("opt/tandem/lib/python3*/site-packages/*")}
    assert not packages & {"torch", "transformers", "deepspeed", "nvidia", "triton"}
    assert {"kubernetes", "boto3", "structlog"} <= packages


def test_training_and_evaluation_share_the_layer_with_torch(images: dict[str, Image]) -> None:
    train, evaluation = (images[kind].layers for kind in ("train", "eval"))
    shared = [one for one, other in zip(train, evaluation, strict=False) if one == other]
    assert len(shared) >= 4


@pytest.mark.timeout(SECONDS)
def test_an_image_is_found_by_its_name_though_a_registrys_image_of_that_name_is_here(images: dict[str, Image]) -> None:
    assert "controller" in images
    ((_, name),) = build_images(kinds=("controller",)).items()
    here, pushed = f"localhost/{name}", f"registry.invalid/{name}"
    buildah("tag", here, pushed)
    buildah("rmi", here)  # of an image with two names, one name
    try:
        build_images(kinds=("controller",))
        assert buildah("inspect", "--type", "image", here)
    finally:
        buildah("rmi", pushed)


LOAD_LAUNCHER = """
import os, sys
sys.setdlopenflags(os.RTLD_LAZY)  # the driver's functions are missed when they are called, not before
from pathlib import Path
import triton
from triton.runtime.build import compile_module_from_src
source = Path(triton.__file__).parent / "backends" / "nvidia" / "driver.c"
print(compile_module_from_src(source.read_text(), "cuda_utils").launch)
"""


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("kind", ["train", "eval"])
def test_triton_finds_what_it_would_compile_and_can_load_it(images: dict[str, Image], kind: str) -> None:
    """As it does before its first launch. Without a GPU there is no driver's library: another one has its name."""
    root = images[kind].root
    stand_in = root / "run" / "driver" / "libcuda.so.1"
    stand_in.parent.mkdir()
    shutil.copyfile(next(root.glob("usr/lib/*/libz.so.1")), stand_in)
    path = next(value for value in images[kind].config["Env"] if value.startswith("PATH="))
    cache, libraries = "TRITON_CACHE_DIR=/opt/triton", "LD_LIBRARY_PATH=/run/driver"
    command = ["/usr/bin/env", "-i", path, cache, libraries, "/opt/tandem/bin/python", "-c", LOAD_LAUNCHER]
    done = subprocess.run(["chroot", str(root), *command], capture_output=True, text=True, check=False)
    shutil.rmtree(stand_in.parent)
    assert "built-in function launch" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_triton_has_the_assembler_for_its_kernels(images: dict[str, Image], kind: str) -> None:
    (assembler,) = images[kind].root.glob("opt/tandem/lib/python3*/site-packages/triton/backends/nvidia/bin/ptxas")
    assert os.access(assembler, os.X_OK)
