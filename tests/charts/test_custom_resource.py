from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.spec import load_run, run_id
from tandem.spec.status import RunStatus
from tests.charts.cluster import Denied, Namespace
from tests.charts.places import ROOT
from tests.spec.runs import EVALUATION, TRAINING, parse, run_file

JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
Change = tuple[str, Any]
GONE = object()


def on_s3(path: Path, folder: Path) -> Path:
    """A shipped job as a cluster takes it: inputs in S3 in place of folders."""
    file = folder / path.name
    file.write_text(path.read_text(encoding="utf-8").replace("../", "s3://bucket/inputs/"))
    return file


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_shipped_job_comes_back_with_the_id_that_its_file_has(
    path: Path, namespace: Namespace, tmp_path: Path
) -> None:
    file = on_s3(path, tmp_path)
    submitted = load_run(file)
    # As kubectl does it: from the file's text, through its own reading of YAML.
    namespace.kubectl("create", "--validate=strict", "-f", str(file))
    spec = namespace.get("run", path.stem)["spec"]
    assert spec == submitted.spec
    assert run_id(path.stem, spec) == submitted.id


def test_every_field_given_with_its_default_is_accepted_and_null_stays_null(
    namespace: Namespace, tmp_path: Path
) -> None:
    run = load_run(on_s3(ROOT / "jobs" / "recommended.yaml", tmp_path)).run
    whole = run.spec.model_dump(mode="json", by_alias=True)
    document = {"apiVersion": run.api_version, "kind": run.kind, "metadata": {"name": "whole"}, "spec": whole}
    spec = namespace.create(document)["spec"]
    assert spec == whole
    assert json.dumps(spec).count("null") > 10
    assert run_id("whole", spec) == parse(document).id


@pytest.mark.parametrize(
    "place",
    [(), ("model",), ("train", "lora"), ("evals", 0, "judge"), ("profiles",)],
    ids=lambda place: ".".join(map(str, place)),
)
def test_a_key_that_nobody_knows_is_refused_to_a_strict_client(place: tuple[Any, ...], namespace: Namespace) -> None:
    run = run_file(profiles={}, evals=[{**EVALUATION, "judge": {}}], train={**TRAINING, "lora": {}})
    section = run["spec"]
    for key in place:
        section = section[key]
    section["learningrate"] = 1
    with pytest.raises(Denied, match=r'unknown field "spec.*learningrate"'):
        namespace.create(run)


REFUSED = {
    "a name that is too long": {"metadata": {"name": "a" * 31}},
    "a name in capitals": {"metadata": {"name": "Run"}},
    "nothing to do": run_file(train=None, evals=[]),
    "an adapter beside training": run_file(model={"source": "s3://b/m", "adapter": "s3://b/a"}),
    "no model": run_file(model={}),
    "too many ranks for nobody": run_file(train={**TRAINING, "ranks": 0}),
    "a text for a number": run_file(seed="1"),
    "a number for a text": run_file(model={"source": 1}),
    "a fraction of a sample": run_file(limit=1.5),
    "a share above one": run_file(train={**TRAINING, "lora": {"dropout": 1}}),
    "a learning rate of nothing": run_file(train={**TRAINING, "optimizer": {"learningRate": 0}}),
    "three betas": run_file(train={**TRAINING, "optimizer": {"betas": [0.1, 0.2, 0.3]}}),
    "an unknown choice": run_file(train={**TRAINING, "loss": "sum"}),
    "epochs and steps": run_file(train={**TRAINING, "steps": 5}),
    "neither epochs nor steps": run_file(train={**TRAINING, "epochs": None}),
    "one name twice": run_file(evals=[EVALUATION, EVALUATION]),
    "the best of what is not validated": run_file(evals=[{**EVALUATION, "of": "checkpoint-best"}]),
    "an adapter that nobody trains": run_file(train=None),
    "a digest that is none": run_file(model={"source": "s3://b/m", "digest": "sha256:1"}),
    "a profile that is a path": run_file(profiles={"train": "../x"}),
    "an unknown wish": run_file(desired="Paused"),
    "a life of less than nothing": run_file(ttlSecondsAfterFinished=-1),
}


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED.keys())
def test_what_tandem_refuses_kubernetes_refuses_too(given: dict[str, Any], namespace: Namespace) -> None:
    run = {**run_file(), **given}
    with pytest.raises(BadConfiguration):
        parse(run)
    with pytest.raises(Denied, match="is invalid"):
        namespace.create(run)


def replace(namespace: Namespace, path: str, value: Any) -> None:
    """Change one field of the Run `small`, or take it away."""
    run = namespace.get("run", "small")
    section = run["spec"]
    *outer, last = path.split(".")
    for key in outer:
        section = section[int(key) if key.isdigit() else key]
    if value is GONE:
        del section[last]
    else:
        section[last] = value
    namespace.kubectl("replace", "--validate=strict", "-f", "-", given=run)


CHANGES: list[Change] = [
    ("seed", 1),
    ("seed", GONE),
    ("limit", 5),
    ("limit", None),
    ("maxAttempts", GONE),
    ("ttlSecondsAfterFinished", 10),
    ("profiles", {"train": "other"}),
    ("model.source", "other"),
    ("model.revision", None),
    ("train", None),
    ("train", GONE),
    ("train.epochs", 2),
    ("train.lora", {}),
    ("train.lora", GONE),
    ("train.optimizer.clipNorm", 1),
    ("train.optimizer.clipNorm", GONE),
    ("train.optimizer.betas", [0.9, 0.99]),
    ("evals", []),
    ("evals", GONE),
    ("evals.0.tiles", None),
    ("evals.0.judge.seed", GONE),
]


def test_nothing_of_a_spec_changes_but_what_is_desired(namespace: Namespace) -> None:
    train = {**TRAINING, "lora": {"r": 16}, "optimizer": {"clipNorm": None, "betas": [0.9, 0.999]}}
    evaluation = {**EVALUATION, "judge": {"seed": None}}
    namespace.create(run_file(seed=0, maxAttempts=3, train=train, evals=[evaluation]))
    before = namespace.get("run", "small")["spec"]
    for path, value in CHANGES:
        with pytest.raises(Denied, match="cannot change") as denied:
            replace(namespace, path, value)
        assert f"spec.{path.split('.')[0]}" in str(denied.value) or "a field appeared or vanished" in str(denied.value)
    assert namespace.get("run", "small")["spec"] == before
    for wish in ("Suspended", "Active", GONE, "Suspended"):
        replace(namespace, "desired", wish)
    namespace.kubectl("label", "run", "small", "team=vision")
    assert namespace.get("run", "small")["spec"] == {**before, "desired": "Suspended"}


@pytest.mark.parametrize("wish", ["Active", "Suspended", GONE], ids=["Active", "Suspended", "gone"])
def test_a_cancelled_run_stays_cancelled(wish: Any, namespace: Namespace) -> None:
    namespace.create(run_file(desired="Cancelled"))
    with pytest.raises(Denied, match="a cancelled Run stays cancelled"):
        replace(namespace, "desired", wish)
    replace(namespace, "desired", "Cancelled")


def write_status(namespace: Namespace, status: dict[str, Any], *extra: str) -> None:
    patch = json.dumps({"status": status})
    namespace.kubectl("patch", "run", "small", "--subresource=status", "--type=merge", "--patch", patch, *extra)


def status_of(phase: str, **more: Any) -> dict[str, Any]:
    """A status as a controller writes it."""
    condition = {
        "type": "Finished",
        "status": "True" if phase == "Succeeded" else "False",
        "reason": phase,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    status = {"runId": "small-0123456789", "phase": phase, "observedGeneration": 1, "conditions": [condition], **more}
    return RunStatus.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)


PROGRESS = {"unit": "steps", "done": 40, "total": 150, "etaSeconds": 60, "text": "40/150 steps"}
ATTEMPT = {"stage": "train", "number": 2, "job": "small-0123456789-t-2", "startedAt": "2026-01-01T00:00:00Z"}
FIGURE = {"evaluation": "heldout", "name": "accuracy", "value": 0.987, "low": 0.967, "high": 1.0, "count": 300}


def test_the_status_is_written_apart_from_the_spec_and_shown_in_columns(namespace: Namespace) -> None:
    run = namespace.create({**run_file(), "status": {"phase": "Succeeded"}})
    assert "status" not in run
    write_status(
        namespace, status_of("Running", attempt=ATTEMPT, progress=PROGRESS, metrics=[FIGURE], figures="heldout 0.987")
    )
    found = namespace.get("run", "small")
    assert found["spec"] == run["spec"]
    assert found["metadata"]["generation"] == 1
    assert found["status"]["metrics"] == [FIGURE]
    header, line = namespace.kubectl("get", "runs").splitlines()
    assert header.split() == ["NAME", "PHASE", "STAGE", "ATTEMPT", "PROGRESS", "FIGURES", "AGE"]
    assert " ".join(line.split()).startswith("small Running train 2 40/150 steps heldout 0.987 ")
    assert "small-0123456789-t-2" in namespace.kubectl("get", "runs", "-o", "wide")


def test_a_finished_run_can_be_waited_for_and_asked_for_by_phase(namespace: Namespace) -> None:
    namespace.create(run_file())
    write_status(namespace, status_of("Running"))
    assert namespace.get("runs", "--field-selector", "status.phase=Succeeded")["items"] == []
    with pytest.raises(Denied, match="timed out"):
        namespace.kubectl("wait", "--for=condition=Finished", "run/small", "--timeout=1s")
    write_status(namespace, status_of("Succeeded"))
    assert "condition met" in namespace.kubectl("wait", "--for=condition=Finished", "run/small", "--timeout=60s")
    assert len(namespace.get("runs", "--field-selector", "status.phase=Succeeded")["items"]) == 1


@pytest.mark.parametrize(
    "status",
    [{"phase": "Done"}, {"attempt": {"stage": "train", "number": 0, "job": "j"}}, {"conditions": [{"type": "Ready"}]}],
    ids=str,
)
def test_a_status_that_is_none_is_refused(status: dict[str, Any], namespace: Namespace) -> None:
    namespace.create(run_file())
    with pytest.raises(Denied, match="is invalid"):
        write_status(namespace, status)


def test_a_run_has_no_finalizer_and_goes_when_it_is_deleted(namespace: Namespace) -> None:
    assert "finalizers" not in namespace.create(copy.deepcopy(run_file()))["metadata"]
    namespace.kubectl("delete", "run", "small", "--timeout=60s")
    assert namespace.get("runs")["items"] == []
