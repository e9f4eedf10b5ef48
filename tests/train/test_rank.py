from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from tandem.errors import BadConfiguration, BadData, Fault, PermanentError, TandemError, Unavailable
from tandem.train.job import read_job, write_job
from tandem.train.ranks import Ranks, read_ranks
from tests.train.saved import Nodes
from tests.train.small import MakeJob, logs_of, outcomes_of, start_ranks, train, wait_for


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


def lose_store() -> None:
    """No server listens, and every wait for it is told."""
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "some",
        "AWS_SECRET_ACCESS_KEY": "key",
        "TANDEM_STORE_RETRY_SECONDS": "1",
    }
    patch("tandem.store.retrying.QUIET_SECONDS", -1.0).start()


def test_a_rank_says_that_it_waits_for_its_store(make_job: MakeJob) -> None:
    job = make_job(store_url="s3://bucket/")
    for process in start_ranks(job, lose_store):
        process.join()
    assert "It is asked again for up to 1 s more" in logs_of(job)
    (outcome,) = outcomes_of(job)
    assert outcome is not None
    assert outcome.exit_code == 75


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


AWAY = Unavailable(Fault(where="s3://b", what="away", remedy="Wait"))
BAD = BadData(Fault(where="x.jsonl:3", what="bad", remedy="Mend it"))


def meet(failure: TandemError | None) -> None:
    if failure is not None:
        raise failure


@pytest.mark.parametrize(
    ("met", "raised"), [([None, AWAY], AWAY), ([AWAY, None], AWAY), ([AWAY, BAD], BAD), ([BAD, AWAY], BAD)]
)
def test_all_ranks_raise_what_one_has_met_and_first_what_is_permanent(
    met: list[TandemError | None], raised: TandemError
) -> None:
    def one(ranks: Ranks) -> TandemError:
        with pytest.raises(type(raised)) as caught, ranks.agreeing():
            meet(met[ranks.rank])
        return caught.value

    errors = Nodes(2).together(one)
    assert [error.faults for error in errors] == [raised.faults] * 2
    assert {isinstance(error, PermanentError) for error in errors} == {isinstance(raised, PermanentError)}


def test_a_fault_of_our_own_stays_with_the_rank_that_met_it() -> None:
    def one(ranks: Ranks) -> str:
        if ranks.rank == 1:
            with ranks.agreeing():
                return "went on"
        with pytest.raises(ZeroDivisionError), ranks.agreeing():
            divmod(1, 0)
        return "raised"

    assert Nodes(2).together(one) == ["raised", "went on"]


def move_clock(sign: Path) -> None:
    """A clock that is a day ahead as soon as the sign is there."""
    ahead = SimpleNamespace(monotonic=lambda: time.monotonic() + 86_400 * sign.exists())
    patch("tandem.train.rank.time", ahead).start()


def test_a_hung_rank_ends_the_attempt_and_the_log_shows_where_it_hung(make_job: MakeJob, tmp_path: Path) -> None:
    """Rank 1 is stopped, so that rank 0 waits for it in a collective; the clock then leaps."""
    job = make_job({"ranks": 2, "steps": 100_000, "stallMinutes": 0.5})
    processes = start_ranks(job, partial(move_clock, tmp_path / "sign"))
    metrics = job.output / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, processes)
    hung = processes[1].pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    (tmp_path / "sign").touch()
    processes[0].join()
    outcome, silent = outcomes_of(job)
    assert silent is None
    assert outcome is not None, logs_of(job)
    assert (outcome.exit_code, outcome.code) == (1, "stalled")
    assert outcome.message.startswith("rank 0 hung: no step has ended for 1.44e+03 minutes")
    assert "in run_training" in logs_of(job)
    processes[1].kill()
    processes[1].join()
