"""A Run whose inputs were pushed reads the same bytes, from the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.errors import BadConfiguration, BadData
from tandem.inputs import Resolver, list_references, pin_inputs
from tandem.inputs.push import find_local_inputs, push_inputs
from tandem.spec import load_run
from tandem.spec.load import Submission
from tandem.store import Store, open_store
from tests.inputs.test_pin import write_inputs

RUN = """
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {name: pushed}
spec:
  model: {source: model}
  train: {meta: train.meta.json, batch: {globalSize: 4}, steps: 2}
  evals:
    - {name: one, data: eval.json, images: images}
    - {name: two, data: eval.json, images: images, of: base}
"""


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    write_inputs(tmp_path / "desk")
    (tmp_path / "desk" / "run.yaml").write_text(RUN)
    return load_run(tmp_path / "desk" / "run.yaml")


def push(submission: Submission, resolver: Resolver, store: Store) -> dict[str, Any]:
    inputs = find_local_inputs(submission.run.spec, resolver)
    return push_inputs(submission.spec, inputs, resolver, store, report=lambda _: None)


def test_every_local_input_is_replaced_by_a_uri_that_holds_the_same_bytes(
    submission: Submission, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    here = Resolver(folder=submission.folder, cache=tmp_path / "cache")
    spec = push(submission, here, store)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "run.yaml"
    moved.write_text(
        yaml.safe_dump(
            {"apiVersion": "tandem.dev/v1alpha1", "kind": "Run", "metadata": {"name": "pushed"}, "spec": spec}
        )
    )
    there = load_run(moved)
    references = list_references(there.run.spec)
    assert all(reference.text.startswith(f"{store.url}/inputs/sha256/") for reference in references)
    before = pin_inputs(list_references(submission.run.spec), here)
    after = pin_inputs(references, Resolver(folder=there.folder, cache=tmp_path / "cache"))
    assert {place: pin.digest for place, (pin, _) in after.items()} == {
        place: pin.digest for place, (pin, _) in before.items()
    }
    assert not list((tmp_path / "store").rglob(".cache")), "what no Run reads stays at home"


def test_pushing_again_gives_the_same_run(submission: Submission, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    resolver = Resolver(folder=submission.folder, cache=tmp_path / "cache")
    specs = [push(submission, resolver, store) for _ in range(2)]
    assert specs[0] == specs[1]
    assert submission.spec["model"]["source"] == "model"


def test_data_outside_the_folder_of_their_file_are_refused_by_name(submission: Submission, tmp_path: Path) -> None:
    (tmp_path / "desk" / "images").rename(tmp_path / "images")
    meta = submission.folder / "train.meta.json"
    meta.write_text(meta.read_text().replace('"images"', '"../images"'))
    (tmp_path / "desk" / "run.yaml").write_text(RUN.split("  evals:", maxsplit=1)[0])
    spec = load_run(tmp_path / "desk" / "run.yaml").run.spec
    with pytest.raises(BadData, match=r"/train\.meta\.json: names \.\./images/a\.png, which lies outside"):
        find_local_inputs(spec, Resolver(folder=submission.folder, cache=tmp_path / "cache"))


def test_everything_that_is_wrong_with_the_inputs_is_said_once_and_together(
    submission: Submission, tmp_path: Path
) -> None:
    (submission.folder / "model").rename(submission.folder / "other")
    (submission.folder / "images" / "b.png").unlink()
    (submission.folder / "train.jsonl").write_text("{}\n")
    with pytest.raises(BadConfiguration) as caught:
        find_local_inputs(submission.run.spec, Resolver(folder=submission.folder, cache=tmp_path / "cache"))
    places = [fault.where.removeprefix(f"{submission.folder}/") for fault in caught.value.faults]
    assert places == ["spec.model.source: model", "train.jsonl:1", "eval.json"]


def test_a_limited_run_takes_only_what_it_reads_along(submission: Submission, tmp_path: Path) -> None:
    samples = json.loads((submission.folder / "eval.json").read_text())
    (submission.folder / "eval.json").write_text(json.dumps([*samples, {**samples[0], "id": 2, "img_name": "gone"}]))
    limited = submission.run.spec.model_copy(update={"limit": 1})
    inputs = find_local_inputs(limited, Resolver(folder=submission.folder, cache=tmp_path / "cache"))
    assert [sorted(local.files) for local in inputs[2:]] == [["eval.json", "images/b.png"]] * 2
