"""A full disk and a full store have a clear end each, on real file systems that are full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration
from tandem.outcome import Outcome
from tandem.train.full_disk import telling_full_disk
from tandem.train.last_words import collect_outcomes, leave_outcome, parse_spoken
from tests.disks import small_disk
from tests.train.small import MakeJob, logs_of, metrics_of, outcomes_of, start_ranks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with 256 KiB."""
    with small_disk(tmp_path / "disk", 256) as folder:
        yield folder


def save_with_torch(folder: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(200_000)}, folder / "optimizer.pt")


def save_with_safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(200_000)}, folder / "adapter.safetensors")


def save_with_python(folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(b"x" * 800_000)


@pytest.mark.parametrize("save", [save_with_torch, save_with_safetensors, save_with_python])
def test_whatever_library_meets_a_full_disk_it_is_told_as_one(disk: Path, save: Callable[[Path], None]) -> None:
    with pytest.raises(BadConfiguration) as caught, telling_full_disk(disk, saving=True):
        save(disk)
    (fault,) = caught.value.faults
    assert fault.where == str(disk)
    assert fault.what == "the disk is full"
    assert "Make room" in fault.remedy


def test_other_errors_stay_what_they_are_and_the_disk_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), telling_full_disk(tmp_path, saving=True):
        divmod(1, 0)
    with pytest.raises(FileNotFoundError), telling_full_disk(tmp_path):
        (tmp_path / "none").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_cannot_write_its_outcome_says_it(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = Outcome(exit_code=78, code="bad-configuration", message="the disk is full", remedy="Make room")
    with pytest.raises(OSError, match="No space"):
        save_with_python(disk)
    leave_outcome(disk / "outcomes", 1, full)
    lines = capsys.readouterr().err.splitlines()
    spoken = dict(filter(None, map(parse_spoken, lines)))
    assert collect_outcomes(disk / "outcomes", range(2), spoken) == [(0, None), (1, full)]


@pytest.mark.parametrize("line", ["step 1/4", "tandem-rank-outcome 1 {}", "tandem-rank-outcome 1 [", ""])
def test_other_lines_are_no_outcomes(line: str) -> None:
    assert parse_spoken(line) is None


def run(make_job: MakeJob, **fields: object) -> tuple[Outcome, list[dict[str, float]], str]:
    """Train 200 steps with a checkpoint after each second one; the outcome, the metrics and the log."""
    job = make_job({"steps": 200}, **fields)
    for process in start_ranks(job):
        process.join()
    (outcome,) = outcomes_of(job)
    assert outcome is not None, logs_of(job)
    return outcome, metrics_of(job), logs_of(job)


def test_a_disk_without_room_for_a_checkpoint_ends_the_training_with_its_name(make_job: MakeJob, disk: Path) -> None:
    outcome, metrics, _ = run(make_job, work=disk / "work")
    assert (outcome.exit_code, outcome.code) == (78, "bad-configuration")
    assert outcome.message == f"{disk}/work/trainer: the disk is full"
    assert len(metrics) in (2, 4)


def test_a_store_without_room_ends_the_training_soon_and_names_it(make_job: MakeJob, tmp_path: Path) -> None:
    with small_disk(tmp_path / "full-store", 256) as store:
        outcome, metrics, log = run(make_job, store_url=store.as_uri())
    assert (outcome.exit_code, outcome.code) == (78, "bad-configuration")
    assert "the disk is full" in outcome.message
    assert str(store) in outcome.message
    assert len(metrics) < 200
    assert "is not in the store yet" in log
