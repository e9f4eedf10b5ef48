"""The process of one rank: `python -m tandem.train.rank JOB.json`, started by torchrun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tandem.errors import TandemError
from tandem.model.quiet import be_quiet
from tandem.outcome import DONE, Outcome, describe_failure, write_outcome
from tandem.process import die_with_parent
from tandem.train.job import RankJob, read_job
from tandem.train.ranks import connect, disconnect, read_ranks


class StopFlag:
    """Remembers that SIGTERM or Ctrl-C came; the training looks at it after each step."""

    def __init__(self) -> None:
        self.raised = False

    def raise_(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.raised = True


def main(arguments: Sequence[str]) -> int:
    """Train as one rank, leave an outcome file whatever happens, and return the exit code."""
    die_with_parent(os.getppid())
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
    outcome = _run(job, flag)
    job.outcomes.mkdir(parents=True, exist_ok=True)
    write_outcome(job.outcomes / f"rank-{ranks.rank:05d}.json", outcome)
    return outcome.exit_code


def _run(job: RankJob, flag: StopFlag) -> Outcome:
    ranks = read_ranks()
    try:
        os.environ["HF_HUB_OFFLINE"] = "1"  # everything was fetched before this process was started
        be_quiet()
        from tandem.train.recipe import run_training

        connect(ranks, expected=job.train.ranks)
        run_training(job, ranks, stop_asked=lambda: flag.raised)
        disconnect(ranks)
    except TandemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return describe_failure(error)
    except BaseException as error:  # noqa: BLE001 - whatever it was, the outcome file must say so
        traceback.print_exc()
        return describe_failure(error)
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
