"""The training stage: starts torchrun, forwards signals to it, and finds out why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tandem.outcome import DONE, Outcome, choose_strongest, read_outcome
from tandem.stage.context import Context
from tandem.train.job import RankJob, write_job

GRACE_SECONDS = 300
"""How long torchrun lets its ranks save a checkpoint after SIGTERM; pods have a longer grace period than this."""


def run_train(context: Context, say: Callable[[str], None]) -> Outcome:
    """Train with as many ranks as the Run says, and return the strongest outcome of them."""
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
    job.outcomes.mkdir(parents=True)
    job_file = context.work / "job.json"
    write_job(job_file, job)
    code = _run_torchrun(_command(train.ranks, job_file), context.output / "logs" / "train.log", say)
    return _explain(job.outcomes, train.ranks, code)


def _command(ranks: int, job_file: Path) -> list[str]:
    rendezvous = [] if "PET_NNODES" in os.environ else ["--standalone", "--nproc-per-node", str(ranks)]
    return [
        *(sys.executable, "-m", "tandem.stage.torchrun", str(os.getpid())),
        *(*rendezvous, "--max-restarts", "0", "--shutdown-timeout", str(GRACE_SECONDS)),
        *("-m", "tandem.train.rank", str(job_file)),
    ]


def _run_torchrun(command: list[str], log: Path, say: Callable[[str], None]) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (
        log.open("w", encoding="utf-8") as copy,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        previous = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
        try:
            assert process.stdout is not None
            for line in process.stdout:
                copy.write(line)
                say(line.rstrip("\n"))
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)


def _explain(outcomes: Path, ranks: int, code: int) -> Outcome:
    left = [read_outcome(outcomes / f"rank-{rank:05d}.json") for rank in range(ranks)]
    found = [outcome for outcome in left if outcome is not None]
    silent = [rank for rank, outcome in enumerate(left) if outcome is None]
    if silent:
        found.append(
            Outcome(
                exit_code=1,
                code="rank-died",
                message=f"rank {silent[0]} ended without a word (torchrun's exit code {code})",
                remedy="It was killed, by the machine for its memory or by hand: see the log.",
            )
        )
    strongest = choose_strongest(found)
    if strongest == DONE and code != 0:
        return Outcome(exit_code=1, code="torchrun", message=f"torchrun ended with {code}", remedy="See the log.")
    return strongest
