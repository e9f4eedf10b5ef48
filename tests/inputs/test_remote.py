"""Inputs in a bucket have the pins that they have on the machine that works with them, and are not fetched for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import BadData
from tandem.inputs import list_references, pin_inputs, pin_remote
from tandem.record.run import Pin
from tandem.spec import RunSpec
from tandem.store import Store, open_store
from tandem.store.trees import upload_tree
from tests.inputs.test_pin import resolver, write_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "here")
    return tmp_path / "here"


def describe(root: str, drop_bad: int = 0) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"source": f"{root}model"},
            "train": {"meta": f"{root}train.meta.json", "steps": 1, "batch": {"globalSize": 1}, "dropBad": drop_bad},
            "evals": [{"name": "one", "data": f"{root}eval.json", "images": f"{root}images"}],
        }
    )


def upload(folder: Path, tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "bucket"))
    upload_tree(store, folder, "tree/")
    return store


def pin(spec: RunSpec, store: Store, scratch: Path) -> dict[str, Pin]:
    scratch.mkdir()
    return pin_remote(list_references(spec), open_bucket=lambda _: store, scratch=scratch)


def test_the_pins_are_those_of_the_same_files_here(folder: Path, tmp_path: Path) -> None:
    there = pin(describe("s3://bucket/tree/"), upload(folder, tmp_path), tmp_path / "scratch")
    here = pin_inputs(list_references(describe("")), resolver(folder))
    assert {place: found.digest for place, found in there.items()} == {
        place: found.digest for place, (found, _) in here.items()
    }
    assert not list((tmp_path / "scratch").rglob("*.png"))


def test_an_image_that_is_in_no_tree_is_named_unless_samples_may_be_unusable(folder: Path, tmp_path: Path) -> None:
    line = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(line + line.replace("a.png", "gone.png"))
    store = upload(folder, tmp_path)
    with pytest.raises(BadData, match=r"images/gone\.png: is named by the data, and is not in a pushed tree"):
        pin(describe("s3://bucket/tree/"), store, tmp_path / "strict")
    there = pin(describe("s3://bucket/tree/", drop_bad=1), store, tmp_path / "lenient")
    here = pin_inputs(list_references(describe("", drop_bad=1)), resolver(folder))
    assert there["spec.train.meta"].digest == here["spec.train.meta"][0].digest
