"""Whatever lies among a training's checkpoints: the newest whole one is found, and broken ones are passed over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration
from tandem.store import Directory, trees, upload_tree
from tandem.store.files import digest_of
from tandem.store.manifest import MANIFEST, decode_manifest, encode_manifest
from tandem.train.checkpoints import PROGRESS as PROGRESS_NAME
from tandem.train.checkpoints import checkpoint_name, find_complete
from tandem.train.metrics import METRICS
from tandem.train.ranks import Ranks
from tandem.train.restoring import Restored, restore_newest
from tests.fuzz.damage import damaged_bytes, damaged_json, fuzzing, read_or_faults, write_json

pytestmark = pytest.mark.timeout(120)

STATES = ("rng_state_0.pth", "rng_state_1.pth")
EXECUTIONS = "runs/local/demo-0123456789/train/executions/"
PROGRESS: dict[str, Any] = {
    "schema": "tandem.dev/checkpoint/v1",
    "step": 50,
    "steps": 150,
    "ranks": 2,
    "zero_stage": 0,
    "data": "ab" * 32,
    "validation": [{"step": 50, "loss": 1.5}],
}

FILES = ("adapter_model.safetensors", "trainer_state.json", "scheduler.pt", "optimizer.pt", METRICS, *STATES)


def write(root: Path, execution: str, step: int, progress: bytes) -> None:
    """A checkpoint whose manifest agrees with its files, whatever these hold."""
    folder = root.parent / "written"
    folder.mkdir()
    (folder / "progress.json").write_bytes(progress)
    for name in FILES:
        (folder / name).write_bytes(b"w" * step)
    upload_tree(Directory(root), folder, f"{EXECUTIONS}{execution}/checkpoints/{checkpoint_name(step)}")
    shutil.rmtree(folder)


def restore(root: Path) -> Restored | None:
    found = read_or_faults(
        lambda: restore_newest(Directory(root), EXECUTIONS, root.parent / "resume", Ranks(), ranks_wanted=2)
    )
    shutil.rmtree(root.parent / "resume", ignore_errors=True)
    return found


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """A thousand restored checkpoints need not outlast a power cut, and are too small for threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(trees, "in_parallel", lambda do, items, _: [do(item) for item in items])
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints") / "store"
    for step in (50, 100):
        write(root, "001-a", step, write_json(PROGRESS | {"step": step}))
    return root


def test_the_newest_is_restored(root: Path) -> None:
    found = restore(root)
    assert found is not None
    assert found.progress.step == 100


@fuzzing(600)
@given(st.data())
def test_a_damaged_checkpoint_is_passed_over(root: Path, data: st.DataObject) -> None:
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and checkpoint_name(100) in str(path)]
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    try:
        body = data.draw(st.none() | damaged_bytes(whole))
        path.unlink() if body is None else path.write_bytes(body)
        found = restore(root)
    finally:
        path.write_bytes(whole)
    assert found is not None
    harmless = body == whole or (body is not None and path.name == "manifest.json")  # blanks, for example
    assert found.progress.step in ((50, 100) if harmless else (50,))


@fuzzing(400)
@given(damaged_json(PROGRESS | {"step": 100}))
def test_a_checkpoint_of_another_kind_is_passed_over_or_refused(root: Path, body: bytes) -> None:
    """Its manifest agrees with its files, as where another version of tandem wrote both."""
    store = Directory(root)
    (source,) = (source for step, source in find_complete(store, EXECUTIONS) if step == 100)
    progress, manifest = root / source / PROGRESS_NAME, root / source / MANIFEST
    whole, before = progress.read_bytes(), manifest.read_bytes()
    files = decode_manifest(before, where=source) | {PROGRESS_NAME: digest_of(body)}
    try:
        progress.write_bytes(body)
        manifest.write_bytes(encode_manifest(files))
        found = restore(root)
    except BadConfiguration:
        return
    finally:
        progress.write_bytes(whole)
        manifest.write_bytes(before)
    if found is not None:
        assert found.progress.step in (50, 100)
        assert found.source.endswith(checkpoint_name(found.progress.step))


def test_a_checkpoint_that_says_another_step_or_far_too_many_ranks_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "store", "001-a", 50, write_json(PROGRESS))
    write(tmp_path / "store", "002-b", 100, write_json(PROGRESS | {"step": 1}))
    write(tmp_path / "store", "002-b", 150, write_json(PROGRESS | {"step": 150, "ranks": 10**12}))
    found = restore(tmp_path / "store")
    assert found is not None
    assert found.progress.step == 50


@pytest.mark.parametrize(
    "key",
    [
        "x/checkpoints/step-x/manifest.json",
        "x/checkpoints/step--5/manifest.json",
        "x/checkpoints/step-" + "9" * 200 + "/manifest.json",
        "checkpoints/step-000200/manifest.json",
        "x/y/checkpoints/step-000200/manifest.json",
        "a\nb/checkpoints/step-000200/manifest.json",
        "x/checkpoints/step-\u0663/manifest.json",
    ],
)
def test_a_stray_folder_hides_no_checkpoint(root: Path, key: str) -> None:
    path = root / EXECUTIONS / key
    path.parent.mkdir(parents=True)
    path.write_bytes(b"[[[")
    found = restore(root)
    shutil.rmtree(root / EXECUTIONS / key.split("/", maxsplit=1)[0])
    assert found is not None
    assert found.progress.step == 100
