"""Which bytes an input is: any change is noticed, and moving it is none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tandem.errors import BadConfiguration, BadData
from tandem.inputs import Reference, Resolver, pin_inputs, verify_pins
from tandem.inputs.pin import require_pin
from tandem.inputs.references import InputKind, list_references
from tandem.record.run import Pin
from tandem.spec import RunSpec


def write_inputs(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(folder / "images" / f"{name}.png")
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / ".cache").mkdir()
    (folder / "model" / ".cache" / "lock").write_bytes(b"whatever")
    line = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    (folder / "train.jsonl").write_text(json.dumps(line) + "\n")
    meta = {"set": {"root": "images", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}}
    (folder / "train.meta.json").write_text(json.dumps(meta))
    sample = {"id": 1, "img_name": "b.png", "question": "?", "answer": "!", "answer_type": "OPEN"}
    (folder / "eval.json").write_text(json.dumps([sample]))


REFERENCES = (
    Reference(place="spec.model.source", text="model", kind=InputKind.MODEL),
    Reference(place="spec.train.meta", text="train.meta.json", kind=InputKind.META),
    Reference(place="spec.evals[e].data", text="eval.json", kind=InputKind.EVALUATION, images="images"),
)


def resolver(folder: Path) -> Resolver:
    return Resolver(folder=folder, cache=folder / "cache")


def pins_of(folder: Path) -> dict[str, Pin]:
    return {place: pin for place, (pin, _) in pin_inputs(REFERENCES, resolver(folder)).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "here")
    return tmp_path / "here"


def test_a_pin_covers_every_file_that_is_read_and_no_other(folder: Path) -> None:
    pinned = pin_inputs(REFERENCES, resolver(folder))
    files = {place: sorted(manifest) for place, (_, manifest) in pinned.items()}
    assert files == {
        "spec.model.source": ["model.safetensors"],
        "spec.train.meta": ["images/a.png", "train.jsonl", "train.meta.json"],
        "spec.evals[e].data": ["eval.json", "images/b.png"],
    }


def test_inputs_that_were_moved_have_the_same_digests(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "there")
    digests = [{place: pin.digest for place, pin in pins_of(root).items()} for root in (folder, tmp_path / "there")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ("model/model.safetensors", "spec.model.source"),
        ("images/a.png", "spec.train.meta"),
        ("images/b.png", "spec.evals[e].data"),
        ("eval.json", "spec.evals[e].data"),
    ],
)
def test_every_change_is_noticed_and_named(folder: Path, changed: str, place: str) -> None:
    pins = pins_of(folder)
    verify_pins(pins, REFERENCES, resolver(folder))
    path = folder / changed
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BadData) as caught:
        verify_pins(pins, REFERENCES, resolver(folder))
    assert [fault.where.split(": ")[0] for fault in caught.value.faults] == [place]


def test_what_may_be_unusable_is_no_obstacle_and_other_images_count(folder: Path) -> None:
    line = (folder / "train.jsonl").read_text()
    broken = ["no JSON\n", line.replace("a.png", "gone.png"), line.replace("a.png", "x" * 300)]
    (folder / "train.jsonl").write_text("".join([*broken, line]))
    strict = Reference(place="spec.train.meta", text="train.meta.json", kind=InputKind.META)
    with pytest.raises(BadData, match=r"train\.jsonl:1: .*Invalid JSON"):
        pin_inputs((strict,), resolver(folder))
    lenient = replace(strict, may_lack=3)
    pins = pin_inputs((lenient,), resolver(folder))
    assert sorted(pins["spec.train.meta"][1]) == ["images/a.png", "train.jsonl", "train.meta.json"]
    verify_pins({"spec.train.meta": pins["spec.train.meta"][0]}, (lenient,), resolver(folder))
    (folder / "images" / "gone.png").write_bytes(b"here")
    with pytest.raises(BadData, match="has changed since the Run was submitted"):
        verify_pins({"spec.train.meta": pins["spec.train.meta"][0]}, (lenient,), resolver(folder))


def test_what_lies_behind_the_limit_is_not_looked_at(folder: Path) -> None:
    line = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(line + line.replace("a.png", "b.png") + "no JSON\n")
    (reference,) = (one for one in REFERENCES if one.kind is InputKind.META)
    _, manifest = pin_inputs((replace(reference, limit=1),), resolver(folder))["spec.train.meta"]
    assert sorted(manifest) == ["images/a.png", "train.jsonl", "train.meta.json"]


def test_an_input_that_is_not_here_names_its_place_in_the_run_file(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    with pytest.raises(BadConfiguration, match=r"^spec\.model\.source: model: is not on this machine"):
        pins_of(folder)


def test_references_cover_everything_that_a_run_reads() -> None:
    spec = RunSpec.model_validate(
        {
            "model": {"source": "OpenGVLab/x", "revision": "abc"},
            "limit": 7,
            "train": {
                "meta": "t.json",
                "steps": 1,
                "batch": {"globalSize": 1},
                "validation": {"meta": "v.json"},
                "dropBad": 2,
            },
            "evals": [
                {"name": "a", "data": "e.json", "images": "pictures"},
                {"name": "b", "data": "e.json", "bertScore": {"model": "encoder"}},
            ],
        }
    )
    references = list_references(spec)
    found = [(reference.place, reference.text, reference.revision) for reference in references]
    assert found == [
        ("spec.model.source", "OpenGVLab/x", "abc"),
        ("spec.train.meta", "t.json", None),
        ("spec.train.validation.meta", "v.json", None),
        ("spec.evals[a].data", "e.json", None),
        ("spec.evals[b].data", "e.json", None),
        ("spec.evals[b].bertScore.model", "encoder", None),
    ]
    data = [reference for reference in references if reference.kind is not InputKind.MODEL]
    assert [(reference.limit, reference.may_lack) for reference in data] == [(7, 2), (7, 2), (7, 0), (7, 0)]


def test_a_record_without_a_digest_for_an_input_is_a_fault() -> None:
    with pytest.raises(BadData, match=r"spec\.model\.source: has no digest in the Run's record"):
        require_pin({}, "spec.model.source")
