"""The training stage: starts torchrun, forwards signals to it, and finds out why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from tandem.outcome import DONE, Outcome, choose_strongest
from tandem.stage.context import Context
from tandem.stage.pods import Pod
from tandem.stage.torchrun import TOLD_BEFORE_RANKS
from tandem.store.files import typed_os_errors
from tandem.train.job import RankJob, write_job
from tandem.train.last_words import collect_outcomes, parse_spoken

GRACE_SECONDS = 300
"""How long torchrun lets its ranks save a checkpoint after SIGTERM; pods have a longer grace period than this."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is known when torchrun has ended."""

    code: int
    stop_asked: bool
    spoken: dict[int, Outcome]
    """Outcomes of local ranks that had no room on the disk for them."""


def run_train(context: Context, say: Callable[[str], None], pod: Pod) -> Outcome:
    """Train with as many ranks as the Run says, and return the strongest outcome of those in this pod."""
    train = context.spec.train
    assert train is not None
    job = RankJob(
        train=train,
        seed=context.spec.seed,
        limit=context.spec.limit,
        model_folder=context.use_input("spec.model.source"),
        meta=context.use_input("spec.train.meta"),
        validation_meta=context.use_input("spec.train.validation.meta") if train.validation else None,
        work=context.work,
        store_url=context.store.url,
        execution=context.prefix,
        checkpoints_from=context.facts.place.executions(context.facts.stage),
        outcomes=context.work / "outcomes",
        base=context.base,
    )
    job_file, log = context.work / "job.json", context.output / "logs" / "train.log"
    with typed_os_errors(str(context.work)):
        job.outcomes.mkdir(parents=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        write_job(job_file, job)
    ended = _run_torchrun(_command(pod, train.ranks, job_file), log, say)
    return _explain(job.outcomes, ended, pod, pod.count_ranks(train.ranks))


def _command(pod: Pod, ranks: int, job_file: Path) -> list[str]:
    rendezvous = [] if pod.by_operator else ["--standalone", "--nproc-per-node", str(ranks)]
    return [
        *(sys.executable, "-m", "tandem.stage.torchrun", str(os.getpid()), str(GRACE_SECONDS)),
        *(*rendezvous, "--max-restarts", "0"),
        *("-m", "tandem.train.rank", str(job_file)),
    ]


@dataclass(kw_only=True)
class _Copy:
    """The log on disk. When that is full, the log ends there; the training may yet go on."""

    file: BinaryIO
    """Unbuffered: what could not be written is not tried again when it is closed."""
    say: Callable[[str], None]
    ended: bool = field(default=False, init=False)

    def write(self, line: str) -> None:
        if self.ended:
            return
        try:
            self.file.write(line.encode())
        except OSError as error:
            self.ended = True
            self.say(f"{self.file.name}: the log ends here ({error.strerror})")


def _run_torchrun(command: list[str], log: Path, say: Callable[[str], None]) -> Ended:
    spoken: dict[int, Outcome] = {}
    with log.open("wb", buffering=0) as file, _forwarding() as told, _started(command, told) as process:
        copy = _Copy(file=cast(BinaryIO, file), say=say)
        assert process.stdout is not None
        for line in process.stdout:
            outcome = parse_spoken(line)
            if outcome is not None:
                spoken[outcome[0]] = outcome[1]
            else:
                copy.write(line)
                say(line.rstrip("\n"))
        return Ended(code=process.wait(), stop_asked=told.asked, spoken=spoken)


@dataclass(kw_only=True)
class _Told:
    """Whether this process was told to stop, and who is to be told then."""

    asked: bool = False
    process: subprocess.Popen[str] | None = None

    def pass_on(self) -> None:
        if self.asked and self.process is not None:
            self.process.send_signal(signal.SIGTERM)


@contextmanager
def _forwarding() -> Iterator[_Told]:
    told = _Told()

    def stop(*_: object) -> None:
        told.asked = True
        told.pass_on()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, previous)


def _started(command: list[str], told: _Told) -> subprocess.Popen[str]:
    told.process = subprocess.Popen(
        command,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    told.pass_on()
    return told.process


def _explain(outcomes: Path, ended: Ended, pod: Pod, here: int) -> Outcome:
    left = collect_outcomes(outcomes, range(here), ended.spoken)
    found = [outcome for _, outcome in left if outcome is not None]
    silent = [pod.number * here + local_rank for local_rank, outcome in left if outcome is None]
    if ended.stop_asked and not found and ended.code in (TOLD_BEFORE_RANKS, -signal.SIGTERM):
        return Outcome(
            exit_code=143,
            code="stopped",
            message="training was told to stop before any rank had begun",
            remedy="The next attempt begins where this one would have.",
        )
    if silent:
        found.append(
            Outcome(
                exit_code=1,
                code="rank-died",
                message=f"rank {silent[0]} ended without a word (torchrun's exit code {ended.code})",
                remedy="It was killed, by the machine for its memory or by hand: see the log.",
            )
        )
    strongest = choose_strongest(found)
    if strongest == DONE and ended.code != 0:
        return Outcome(exit_code=1, code="torchrun", message=f"torchrun ended with {ended.code}", remedy="See the log.")
    return strongest
