"""Names of jobs: the same for the same attempt, different for every other, and legal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.control.names import LONGEST_JOB_NAME, JobStage, join_shards, name_job, parse_job_stage
from tandem.control.stages import list_stages
from tandem.errors import BadConfiguration
from tandem.spec import RunSpec

SPEC: dict[str, Any] = {
    "model": {"source": "s3://b/base"},
    "train": {"meta": "s3://b/m.json", "batch": {"globalSize": 1}, "steps": 9, "tiles": {"max": 2}},
    "evals": [
        {"name": "every", "of": "checkpoint-every", "data": "s3://b/e.json", "shards": 3},
        {"name": "base", "of": "base", "data": "s3://b/e.json"},
    ],
}
RUN = RunSpec.model_validate(SPEC)
IDS = {"every": "0123456789", "base": "9876543210"}


def all_jobs(checkpoints: tuple[int, ...] | None) -> dict[str, str]:
    stages = list_stages(RUN, checkpoints, IDS)
    jobs = join_shards(tuple(stage.name for stage in stages))
    return {job.text: name_job("demo-0123456789", RUN, checkpoints, job, 1) for job in jobs}


def test_every_stage_has_a_name_of_its_own_with_its_place_in_the_run_file() -> None:
    names = all_jobs((50, 100))
    assert names["train"] == "demo-0123456789-t-1"
    assert names["generate/every-step-000100/0,1,2"] == "demo-0123456789-g0c1-1"
    assert names["score/base/9876543210"] == "demo-0123456789-s1-1"
    assert len(set(names.values())) == len(names)


def test_a_name_does_not_change_when_training_ends_and_checkpoints_become_known() -> None:
    before, after = all_jobs(None), all_jobs((50, 100))
    assert before.items() <= after.items()
    assert len(after) > len(before)


def test_a_name_that_kubernetes_could_not_take_is_refused() -> None:
    longest = f"{'n' * 30}-0123456789"
    assert len(name_job(longest, RUN, (50,), JobStage(kind="score", evaluation="base", parts=("x",)), 1000)) <= 54
    with pytest.raises(BadConfiguration, match=r"is too long: the job n+-0123456789-12345678-t-10000"):
        name_job(f"{longest}-12345678", RUN, (), JobStage(kind="train"), 10_000)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True))
def test_shards_of_one_evaluation_share_a_job_in_the_order_of_their_numbers(shards: list[int]) -> None:
    stages = [f"generate/a/{shard}" for shard in shards]
    (job,) = join_shards(tuple(stages))
    assert job.parts == tuple(str(shard) for shard in sorted(shards))
    assert set(job.stages) == set(stages)
    assert parse_job_stage(job.text) == job


@pytest.mark.parametrize("text", ["", "train/x", "generate/a", "generate//0", "score/a/", "other/a/b"])
def test_what_is_no_stage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no stage"):
        parse_job_stage(text)


def test_names_are_labels_of_dns() -> None:
    for name in all_jobs((1, 2, 3)).values():
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= LONGEST_JOB_NAME
