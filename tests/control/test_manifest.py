"""The manifests that the controller makes: exactly these, and nothing else of the profile is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.control.manifest import Owner, build_job
from tandem.control.names import JobStage
from tandem.stage.facts import Facts
from tandem.store.layout import RunPlace
from tests.control.profiles import generate, score, train

GOLDEN = Path(__file__).parents[1] / "golden" / "jobs"
PLACE = RunPlace(namespace="team", run_id="demo-0123456789")
OWNER = Owner(name="demo", uid="11111111-2222-3333-4444-555555555555")
STAGES = {
    "train": (train, JobStage(kind="train")),
    "generate": (generate, JobStage(kind="generate", evaluation="adapter", parts=("0", "3"))),
    "score": (score, JobStage(kind="score", evaluation="adapter", parts=("abcdef0123",))),
}


def build(manifest: dict[str, Any], stage: JobStage, attempt: int = 2) -> dict[str, Any]:
    facts = Facts(store_url="s3://bucket/runs", place=PLACE, run_sha256="ab" * 32, stage=stage.text, attempt=attempt)
    return build_job(manifest, name=f"demo-0123456789-x-{attempt}", stage=stage, facts=facts, owner=OWNER)


# The files were written by this builder from tests/control/profiles.py and read by people line by line.
@pytest.mark.parametrize("name", STAGES)
def test_the_job_of_a_stage_is_this(name: str) -> None:
    made, stage = STAGES[name]
    assert build(made()["manifest"], stage) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", STAGES)
def test_building_from_what_was_built_before_changes_only_the_attempt(name: str) -> None:
    made, stage = STAGES[name]
    first = build(made()["manifest"], stage, attempt=1)
    assert build(first, stage, attempt=2) == build(made()["manifest"], stage, attempt=2)


@pytest.mark.parametrize("name", STAGES)
def test_a_profile_is_not_changed_by_building_from_it(name: str) -> None:
    made, stage = STAGES[name]
    manifest = made()["manifest"]
    before = copy.deepcopy(manifest)
    build(manifest, stage)
    assert manifest == before


def leaves(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in leaves(one, (*path, key)).items()}
    if isinstance(value, list):
        return {k: v for index, one in enumerate(value) for k, v in leaves(one, (*path, index)).items()}
    return {path: value}


@pytest.mark.parametrize("name", STAGES)
def test_all_that_a_profile_says_stays(name: str) -> None:
    made: Callable[[], dict[str, Any]] = STAGES[name][0]
    manifest = made()["manifest"]
    kept = {path: value for path, value in leaves(manifest).items() if path[-1] not in ("completions", "parallelism")}
    assert kept.items() <= leaves(build(manifest, STAGES[name][1])).items()
