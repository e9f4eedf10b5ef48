"""docs/real-checkpoints.md: every command on that page is run, and what it is not given is one line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tandem.cli.merge import read_checkpoint
from tandem.errors import BadConfiguration
from tandem.inputs import Resolver, list_references, pin_inputs
from tandem.inputs.references import InputKind
from tandem.model.card import CardBase, read_card, write_card
from tandem.model.loading import load_base
from tandem.record.commit import write_commit
from tandem.record.run import RunRecord, write_record
from tandem.spec import Subject, load_run
from tandem.store import open_store, upload_tree
from tandem.store.layout import RunPlace
from tests.e2e.desk import Desk
from tests.model.remote import GOLDEN
from tests.model.test_merge import make_adapter

PAGE = Path(__file__).parents[2] / "docs" / "real-checkpoints.md"
RUN = """
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {name: demo}
spec:
  model: {source: InternVL3-2B-hf}
  train: {meta: meta.json, batch: {globalSize: 4}, steps: 2}
"""
AT = "2026-01-01T00:00:00+00:00"


def read_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("tandem ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with a remote-code checkpoint; the page's first command has been run there."""
    desk = Desk(folder=tmp_path_factory.mktemp("desk"))
    shutil.copytree(GOLDEN / "qwen2", desk.folder / "InternVL3-2B")
    answer = desk.tandem(*shlex.split(read_commands()[0])[1:])
    assert answer.code == 0, answer.err
    assert answer.out.startswith("InternVL3-2B-hf: InternVL with qwen2, 82144 parameters")
    return desk


@pytest.fixture(scope="module")
def run_id(desk: Desk) -> str:
    """A Run whose training was committed, with an adapter and a checkpoint that is another one."""
    (desk.folder / "run.yaml").write_text(RUN)
    submission = load_run(desk.folder / "run.yaml")
    models = tuple(item for item in list_references(submission.run.spec) if item.kind is InputKind.MODEL)
    resolver = Resolver(folder=desk.folder, cache=desk.folder / "cache")
    pins = {place: pin for place, (pin, _) in pin_inputs(models, resolver).items()}
    store = open_store(str(desk.folder / "tandem-store"))
    place, _ = write_record(store, submission, pins, namespace="local", submitted_at=AT, again=False)
    base, output = desk.folder / "InternVL3-2B-hf", desk.folder / "output"
    for folder, rank in ((output / "adapter", 4), (desk.folder / "step", 2)):
        make_adapter(base, folder, r=rank)
        origin = CardBase(source="InternVL3-2B-hf", digest=pins["spec.model.source"].digest)
        write_card(folder, read_card(folder).model_copy(update={"base": origin}))
    shutil.copytree(output / "adapter", desk.folder / "my-adapter")
    (output / "train.json").write_text(json.dumps({"checkpoints": {"best": {"step": 1}}}))
    (output / "exit.json").write_text("{}")
    (desk.folder / "step" / "tandem.json").unlink()
    prefix = place.execution("train", "001-a")
    upload_tree(store, desk.folder / "step", f"{prefix}checkpoints/step-000001/")
    upload_tree(store, output, prefix)
    write_commit(store, place, "train", "001-a", AT)
    return place.run_id


def test_every_command_of_the_page_makes_a_checkpoint_that_loads(desk: Desk, run_id: str) -> None:
    digests = {}
    for command in read_commands()[1:]:
        _, *arguments = shlex.split(re.sub(r"demo-[0-9a-f]{10}", run_id, command))
        answer = desk.tandem(*arguments)
        assert answer.code == 0, answer.err
        merged = desk.folder / arguments[2]
        load_base(merged, precision="float32", device="cpu")
        card = json.loads((merged / "tandem.json").read_text())
        digests[arguments[2]] = card["adapter"]["digest"]
        assert card["base"]["source"] == "InternVL3-2B-hf"
        assert card["adapter"]["source"].startswith(arguments[1])
    assert len(digests) == 3
    assert digests["demo-merged"] == digests["my-merged"] != digests["demo-best"]


def test_the_beginning_of_an_id_and_a_step_are_enough(desk: Desk, run_id: str) -> None:
    assert desk.tandem("merge", "demo", "by-step", "--checkpoint", "1").code == 0
    card = json.loads((desk.folder / "by-step" / "tandem.json").read_text())
    assert card["adapter"]["source"] == f"{run_id}, checkpoint 1"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("merge", "demo", "x", "--checkpoint", "7"), 65, "checkpoint of step 7: is not in the store, which has [1]"),
        (("merge", "demo", "x", "--checkpoint", "newest"), 78, "'newest' is neither best, last nor a step"),
        (("merge", "nothing", "x"), 78, "no Run has this id"),
        (("merge", "my-adapter", "x", "--checkpoint", "last"), 78, "has no checkpoints to choose from"),
        (("merge", "my-adapter", "x", "--base", "nowhere"), 78, "is not on this machine"),
        (("merge", "my-adapter", "x", "--base", "InternVL3-2B"), 78, "Convert it once: tandem convert"),
        (("merge", "my-adapter", "InternVL3-2B"), 78, "is there already"),
        (("convert", "nowhere", "x"), 78, "is not on this machine"),
        (("convert", "InternVL3-2B-hf", "x"), 65, "the model is in the native format already"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    desk: Desk, run_id: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    answer = desk.tandem(*arguments)
    assert (answer.code, message in answer.err) == (code, True), answer.err
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("tandem: ")
    assert not (desk.folder / "x").exists()


def test_a_base_that_was_changed_since_training_is_refused(desk: Desk, run_id: str) -> None:
    changed = shutil.copytree(desk.folder / "InternVL3-2B-hf", desk.folder / "changed")
    (changed / "generation_config.json").write_text("{}")
    answer = desk.tandem("merge", "demo", "x", "--base", "changed")
    assert (answer.code, "not on this base" in answer.err) == (65, True)


def test_a_run_that_trains_nothing_is_merged_with_the_adapter_that_it_names(desk: Desk, run_id: str) -> None:
    store = open_store(str(desk.folder / "tandem-store"))
    place = RunPlace(namespace="local", run_id="given-0000000000")
    record = json.loads(store.get(RunPlace(namespace="local", run_id=run_id).record))
    spec = {"model": {"source": "InternVL3-2B-hf", "adapter": "my-adapter"}, "evals": [EVALUATION]}
    body = RunRecord.model_validate(record | {"spec": spec, "id": place.run_id}).model_dump_json(by_alias=True)
    store.put_if_absent(place.record, body.encode())
    answer = desk.tandem("merge", "given", "given-merged")
    assert answer.code == 0, answer.err
    answer = desk.tandem("merge", "given", "x", "--checkpoint", "best")
    assert (answer.code, "the Run trains nothing, so it has no checkpoints" in answer.err) == (78, True)


EVALUATION = {"name": "all", "of": "adapter", "data": "eval.json"}


def test_checkpoints_are_chosen_by_name_or_step() -> None:
    assert read_checkpoint("") == (Subject.ADAPTER, None)
    assert read_checkpoint("best") == (Subject.CHECKPOINT_BEST, None)
    assert read_checkpoint("last") == (Subject.CHECKPOINT_LAST, None)
    assert read_checkpoint("200") == (Subject.ADAPTER, 200)
    with pytest.raises(BadConfiguration):
        read_checkpoint("²")
