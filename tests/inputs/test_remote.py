"""Pins from manifests alone are those of the machine that has the files; nothing but lists is brought for them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration, BadData, Fault, PermanentError, Unavailable
from tandem.inputs import Reference, Resolver, list_references, pin_inputs, pin_remote
from tandem.inputs.references import InputKind
from tandem.record.run import Pin
from tandem.spec import RunSpec, load_run
from tandem.store import Directory, FileDigest, Store, upload_tree
from tests.fuzz.damage import damaged_json, expect_clear_faults, fuzzing, read_or_faults
from tests.inputs.hub import COMMIT
from tests.inputs.test_pin import write_inputs
from tests.inputs.test_push import RUN, push


class Bucket(Directory):
    """A bucket that knows which files were taken out of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken: list[str] = []

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        self.taken.append(key.rpartition("/")[2])
        super().get_file(key, path, expected)


@dataclass
class Desk:
    """Inputs on a machine, and the bucket that they go to."""

    folder: Path
    bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.folder / "bucket")
        write_inputs(self.folder / "desk")

    @property
    def resolver(self) -> Resolver:
        return Resolver(folder=self.folder / "desk", cache=self.folder / "cache")

    def pin(self, *references: Reference, store: Store | None = None) -> dict[str, Pin]:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            return pin_remote(references, open_bucket=lambda _: store or self.bucket, scratch=Path(scratch))

    def push(self) -> tuple[tuple[Reference, ...], dict[str, Pin]]:
        """What a Run of all inputs names once they are in the bucket, and its pins by the files themselves."""
        file = self.folder / "desk" / "run.yaml"
        file.write_text(RUN)
        here = load_run(file)
        spec = push(here, self.resolver, self.bucket)
        text = json.dumps(spec).replace(f"{self.bucket.url}/", "s3://bucket/")
        pins = {place: pin for place, (pin, _) in pin_inputs(list_references(here.run.spec), self.resolver).items()}
        return list_references(RunSpec.model_validate_json(text)), pins

    def upload(self, files: dict[str, bytes]) -> str:
        """A tree of these files; its URI."""
        with tempfile.TemporaryDirectory(dir=self.folder) as room:
            for name, body in files.items():
                (Path(room) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(room) / name).write_bytes(body)
            upload_tree(self.bucket, Path(room), f"inputs/{Path(room).name}/")
            return f"s3://bucket/inputs/{Path(room).name}"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def model(text: str, **others: Any) -> Reference:
    return Reference(place="spec.model.source", text=text, kind=InputKind.MODEL, **others)


def meta(text: str, **others: Any) -> Reference:
    return Reference(place="spec.train.meta", text=text, kind=InputKind.META, **others)


def evaluation(text: str, images: str | None = None) -> Reference:
    return Reference(place="spec.evals[e].data", text=text, kind=InputKind.EVALUATION, images=images)


def test_what_was_pushed_has_the_pins_of_the_files_and_only_lists_are_brought_for_them(desk: Desk) -> None:
    references, wanted = desk.push()
    found = desk.pin(*references)
    assert {place: (pin.digest, pin.files, pin.size) for place, pin in found.items()} == {
        place: (pin.digest, pin.files, pin.size) for place, pin in wanted.items()
    }
    assert {place: (pin.text, pin.location) for place, pin in found.items()} == {
        reference.place: (reference.text, reference.text) for reference in references
    }
    assert set(desk.bucket.taken) == {"train.meta.json", "train.jsonl", "eval.json"}


names = st.text("ab.0-", min_size=1, max_size=4).filter(lambda name: name.strip("."))
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=4), min_size=1, max_size=6
).filter(lambda tree: not any(a != b and b.startswith(f"{a}/") for a in tree for b in tree))


@fuzzing(60)
@given(tree=trees)
def test_any_folder_is_pinned_as_where_it_came_from(tree: dict[str, bytes]) -> None:
    """Hidden files are not part of a model, in the bucket as on the machine."""
    with tempfile.TemporaryDirectory() as room:
        desk = Desk(Path(room))
        for name, body in tree.items():
            path = desk.folder / "desk" / "any" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        upload_tree(desk.bucket, desk.folder / "desk" / "any", "inputs/any/")
        (pin, manifest), *_ = pin_inputs((model("any"),), desk.resolver).values()
        if not manifest:
            with pytest.raises(BadConfiguration, match="nothing below it"):
                desk.pin(model("s3://bucket/inputs/any"))
            return
        found = desk.pin(model("s3://bucket/inputs/any/"))["spec.model.source"]
        assert (found.digest, found.files, found.size) == (pin.digest, pin.files, pin.size)


def test_images_may_be_a_tree_of_their_own(desk: Desk) -> None:
    here = desk.folder / "desk"
    images = desk.upload({"b.png": (here / "images" / "b.png").read_bytes()})
    data = desk.upload({"eval.json": (here / "eval.json").read_bytes()})
    pin = desk.pin(evaluation(f"{data}/eval.json", images))["spec.evals[e].data"]
    assert pin.files == 2


def test_a_model_of_the_hub_is_pinned_by_its_commit_and_nothing_is_asked(desk: Desk) -> None:
    def nobody(_: str) -> Store:
        raise AssertionError("the hub is no bucket")

    pins = pin_remote((model("team/model", revision=COMMIT),), open_bucket=nobody, scratch=desk.folder)
    (pin,) = pins.values()
    assert (pin.digest, pin.location, pin.files) == (f"revision:{COMMIT}", f"team/model@{COMMIT}", 0)


def test_every_input_that_no_pod_reaches_is_named_at_once(desk: Desk) -> None:
    here = desk.upload({"eval.json": (desk.folder / "desk" / "eval.json").read_bytes()})
    with pytest.raises(BadConfiguration) as caught:
        desk.pin(
            model("team/model", revision="main"),
            meta("train.meta.json"),
            evaluation(f"{here}/eval.json", "images"),
            model("s3://bucket/nowhere/model"),
            model("s3://bucket"),
        )
    assert [fault.where for fault in caught.value.faults] == [
        "spec.model.source: team/model",
        "spec.train.meta: train.meta.json",
        "spec.evals[e].images: images",
        "s3://bucket/nowhere/model",
        "s3://bucket",
    ]
    assert "is no commit of 40 hex digits" in caught.value.faults[0].what
    expect_clear_faults(caught.value.faults)


def lines(*images: str) -> bytes:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    return b"".join(json.dumps({"image": image, "conversations": turns}).encode() + b"\n" for image in images)


def written_meta(annotation: str = "train.jsonl", root: str = "images") -> bytes:
    return json.dumps(
        {"set": {"root": root, "annotation": annotation, "data_augment": False, "repeat_time": 1}}
    ).encode()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        pytest.param({"m.json": written_meta()}, "train.jsonl", id="annotation"),
        pytest.param({"m.json": written_meta("../../../../etc/passwd")}, "etc/passwd", id="above-the-tree"),
        pytest.param({"m.json": written_meta("/etc/passwd")}, "/etc/passwd", id="absolute"),
        pytest.param({"m.json": written_meta(), "train.jsonl": lines("a.png", "b.png")}, "images/a.png", id="image"),
        pytest.param({}, "m.json", id="meta"),
    ],
)
def test_a_file_that_data_name_and_no_tree_has_is_named(desk: Desk, files: dict[str, bytes], missing: str) -> None:
    uri = desk.upload({**files, "images/other.png": b""})
    with pytest.raises(BadData) as caught:
        desk.pin(meta(f"{uri}/m.json"))
    assert all("is not in a pushed tree" in fault.what for fault in caught.value.faults)
    assert caught.value.faults[0].where.endswith(missing)
    expect_clear_faults(caught.value.faults)


def test_an_image_that_is_in_no_tree_is_named_unless_samples_may_be_unusable(desk: Desk) -> None:
    files = {"m.json": written_meta(), "train.jsonl": lines("a.png", "gone.png"), "images/a.png": b"a"}
    uri = desk.upload(files)
    with pytest.raises(BadData, match=r"images/gone\.png: is named by the data, and is not in a pushed tree"):
        desk.pin(meta(f"{uri}/m.json"))
    for name, body in files.items():
        (desk.folder / "desk" / name).write_bytes(body)
    there = desk.pin(meta(f"{uri}/m.json", may_lack=1))["spec.train.meta"]
    here, _ = pin_inputs((meta("m.json", may_lack=1),), desk.resolver)["spec.train.meta"]
    assert there.digest == here.digest


def test_a_fault_in_a_pushed_file_is_told_by_its_address_in_the_bucket(desk: Desk) -> None:
    uri = desk.upload({"m.json": written_meta(), "train.jsonl": b"{}\n", "images/a.png": b"a"})
    with pytest.raises(BadData) as caught:
        desk.pin(meta(f"{uri}/m.json"))
    assert caught.value.faults[0].where.startswith(f"{uri}/train.jsonl")
    assert str(desk.folder) not in str(caught.value)


def test_a_manifest_that_is_damaged_is_a_fault_of_the_data_also_beside_one_of_the_spec(desk: Desk) -> None:
    desk.bucket.put_if_absent("inputs/broken/manifest.json", b"{")
    with pytest.raises(PermanentError) as caught:
        desk.pin(model("s3://bucket/inputs/broken"), meta("local.json"))
    assert len(caught.value.faults) == 2


def test_a_bucket_that_is_away_is_no_fault_of_the_run(desk: Desk) -> None:
    class Away(Bucket):
        def get(self, key: str) -> bytes:
            raise Unavailable(Fault(where=key, what="does not answer", remedy="Wait."))

    with pytest.raises(Unavailable):
        desk.pin(model("s3://bucket/inputs/any"), meta("local.json"), store=Away(desk.folder / "bucket"))


DOCUMENTS: dict[str, Callable[[], Any]] = {
    "m.json": lambda: json.loads(written_meta()),
    "e.json": lambda: [{"id": 1, "img_name": "b.png", "question": "?", "answer": "!", "answer_type": "OPEN"}],
}


@pytest.mark.parametrize("name", DOCUMENTS)
@fuzzing(100)
@given(data=st.data())
def test_whatever_a_pushed_list_holds_there_are_pins_or_clear_faults(name: str, data: st.DataObject) -> None:
    body = data.draw(damaged_json(DOCUMENTS[name]()))
    with tempfile.TemporaryDirectory() as room:
        desk = Desk(Path(room))
        uri = desk.upload({name: body, "train.jsonl": lines("a.png"), "images/a.png": b"a", "b.png": b"b"})
        reference = meta(f"{uri}/{name}") if name == "m.json" else evaluation(f"{uri}/{name}")
        pins = read_or_faults(lambda: desk.pin(reference))
        assert pins is None or pins[reference.place].files >= 1
