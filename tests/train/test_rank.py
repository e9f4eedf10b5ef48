from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration
from tandem.train.job import read_job, write_job
from tandem.train.ranks import Ranks, read_ranks
from tests.train.small import MakeJob, train


def test_a_job_file_is_read_as_it_was_written(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job({"validation": {"meta": "val.json"}})
    write_job(tmp_path / "job.json", job)
    assert read_job(tmp_path / "job.json") == job


def test_every_fault_of_a_job_file_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", make_job())
    fields = json.loads((tmp_path / "job.json").read_text())
    del fields["seed"]
    fields["surprise"] = 1
    (tmp_path / "job.json").write_text(json.dumps(fields))
    with pytest.raises(BadConfiguration, match=r"(?s)seed: .*surprise: "):
        read_job(tmp_path / "job.json")


def test_a_job_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read"):
        read_job(tmp_path / "none.json")


def test_ranks_are_read_from_what_torchrun_says() -> None:
    environment = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert read_ranks(environment) == Ranks(world=8, rank=5, local_rank=1, local_world=4)
    assert read_ranks({}) == Ranks()


def test_a_single_rank_hears_itself() -> None:
    assert Ranks().gather("a") == ["a"]
    assert Ranks().share("a") == "a"


def test_a_wrong_store_address_leaves_its_outcome(make_job: MakeJob) -> None:
    outcome = train(make_job(store_url="s3://no bucket/"))[0]
    assert outcome is not None
    assert (outcome.exit_code, outcome.code) == (78, "bad-configuration")
    assert "no bucket" in outcome.message


def test_an_error_that_nobody_expected_leaves_an_outcome_too(make_job: MakeJob) -> None:
    job = make_job()
    job.work.mkdir()
    (job.work / "output").write_text("a file where a folder belongs")
    outcome = train(job)[0]
    assert outcome is not None
    assert (outcome.exit_code, outcome.code) == (1, "unexpected")


def test_a_missing_model_is_one_clear_line(make_job: MakeJob, tmp_path: Path) -> None:
    outcome = train(make_job(model_folder=tmp_path / "no-model"))[0]
    assert outcome is not None
    assert outcome.exit_code == 78
    assert str(tmp_path / "no-model") in outcome.message
