"""The process of one rank: `python -m tandem.train.rank JOB.json`, started by torchrun."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from tandem.errors import TandemError
from tandem.model.libraries import load_libraries
from tandem.outcome import DONE, Outcome, describe_failure
from tandem.process import die_with_parent
from tandem.train.full_disk import telling_full_disk
from tandem.train.job import RankJob, read_job
from tandem.train.last_words import leave_outcome
from tandem.train.ranks import Ranks, connect, disconnect, read_ranks
from tandem.train.watchdog import Watchdog

TORCHRUN = "TANDEM_TORCHRUN"
"""Names the environment variable with the pid of the torchrun that this process must not outlive."""


class StopFlag:
    """Remembers that SIGTERM or Ctrl-C came; the training looks at it after each step."""

    def __init__(self) -> None:
        self.raised = False

    def raise_(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.raised = True


def main(arguments: Sequence[str]) -> int:
    """Train as one rank, leave an outcome file whatever happens, and return the exit code."""
    die_with_parent(int(os.environ.get(TORCHRUN, os.getppid())))
    flag = StopFlag()
    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, flag.raise_)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    ranks = read_ranks()
    logging.getLogger("tandem").setLevel(logging.INFO if ranks.leads_all else logging.WARNING)
    try:
        job = read_job(Path(arguments[0]))
    except TandemError as error:
        print(error, file=sys.stderr)  # noqa: T201 - without a job there is no folder for the outcome
        return error.exit_code
    watchdog = Watchdog(minutes=job.train.stall_minutes, clock=time.monotonic, end=partial(_end_stalled, job, ranks))
    watchdog.start()
    try:
        outcome = _run(job, ranks, flag, watchdog)
    except BaseException as error:  # noqa: BLE001 - raised by torch's handler of SIGCHLD while a failure was told
        outcome = describe_failure(error)
    watchdog.stop()
    leave_outcome(job.outcomes, ranks.local_rank, outcome)
    return outcome.exit_code


def _run(job: RankJob, ranks: Ranks, flag: StopFlag, watchdog: Watchdog) -> Outcome:
    try:
        os.environ["HF_HUB_OFFLINE"] = "1"  # everything was fetched before this process was started
        # Rows differ in length: in segments of fixed size, memory that is free would lie in pieces too small to use.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        load_libraries()
        from tandem.train.recipe import run_training

        connect(ranks, expected=job.train.ranks)
        with telling_full_disk(job.work):
            run_training(job, ranks, stop_asked=lambda: flag.raised, watchdog=watchdog)
        disconnect(ranks)
    except TandemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return describe_failure(error)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the outcome file must say so
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a data loader's death would be raised anywhere from here on
        traceback.print_exc()
        return describe_failure(error)
    return DONE


def _end_stalled(job: RankJob, ranks: Ranks, minutes: float) -> None:
    """End this process from the watchdog's thread; torchrun then ends the other ranks."""
    signal.alarm(30)  # the kernel ends it if even this hangs
    leave_outcome(
        job.outcomes,
        ranks.local_rank,
        Outcome(
            exit_code=1,
            code="stalled",
            message=f"rank {ranks.rank} hung: no step has ended for {minutes:.3g} minutes",
            remedy="The next attempt goes on from the last checkpoint. The log shows where each thread stood; if steps "
            "may take so long, raise train.stallMinutes.",
        ),
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # threads may hang on a store, or on a peer that is gone
