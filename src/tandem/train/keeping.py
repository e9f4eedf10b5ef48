"""What becomes of a checkpoint that the trainer has written: named, sent to the store, rotated, waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import TandemError
from tandem.store import Store
from tandem.train.checkpoints import Progress, checkpoint_name, finish_checkpoint, rotate_checkpoints
from tandem.train.full_disk import telling_full_disk
from tandem.train.job import RankJob
from tandem.train.ranks import Ranks
from tandem.train.uploads import Uploads

LONGEST_WAIT_SECONDS = 900.0
"""How long training waits for a store that takes no checkpoint while too many are on their way."""
STOPPING_SECONDS = 200.0
"""What they get when training was told to stop: less than torchrun leaves its ranks until it kills them (300 s)."""
LAST_CHANCE_SECONDS = 150.0
"""What checkpoints that are under way get when the training has failed: a little more than a store's own retries."""


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Keeps checkpoints: on this node's disk, and where there is a store in it."""

    job: RankJob
    ranks: Ranks
    uploads: Uploads | None
    """On the rank that leads a node, if there is a store."""

    @property
    def failed(self) -> bool:
        """Whether this node's checkpoints cannot get to the store, and waiting does not help."""
        return self.uploads is not None and self.uploads.failed

    def keep(self, written: Path, progress: Progress, metrics: Path | None) -> None:
        """Take what all ranks have written for a step into a folder; all of them must call it.

        Raises BadConfiguration if the disk is full, Unavailable if the store takes nothing for too long.
        """
        self.ranks.wait()
        with self.ranks.agreeing():
            if self.ranks.leads_node:
                with telling_full_disk(self.job.work, saving=True):
                    self._keep(written, progress, metrics)

    def _keep(self, written: Path, progress: Progress, metrics: Path | None) -> None:
        target = self.job.output / "checkpoints" / checkpoint_name(progress.step)
        finish_checkpoint(written, target, progress=progress, metrics=metrics)
        if self.uploads is not None:
            self.uploads.add(target)
        else:
            rotate_checkpoints(target.parent, keep=self.job.train.checkpoints.keep)

    def finish(self, *, patient: bool) -> None:
        """Wait until every checkpoint is in the store; all ranks must call it.

        All raise what keeps one of them from there: Unavailable while the store is away, BadConfiguration if it is
        full. Patient: after one more try. If not, training was told to stop, and Stopped is raised when time is up.
        """
        seconds = None if patient else STOPPING_SECONDS / 2
        try:
            with self.ranks.agreeing():
                if self.uploads is not None:
                    self.uploads.wait_until_sent(patient=patient, seconds=seconds)
            with self.ranks.agreeing():
                if self.uploads is not None:
                    self.uploads.wait_until_committed(seconds=seconds)
        except TandemError:  # they have had their chance
            if self.uploads is not None:
                self.uploads.close(seconds=0)
            raise

    def close(self) -> None:
        """Let what is under way arrive if it can; for one rank alone, after a failure too."""
        if self.uploads is not None:
            self.uploads.close(seconds=LAST_CHANCE_SECONDS)


def open_keeper(
    job: RankJob, ranks: Ranks, store: Store | None, *, clock: Callable[[], float], stop_asked: Callable[[], bool]
) -> Keeper:
    """The keeper of this rank, with its uploads begun; all ranks must call it."""
    leaders = [rank for rank, leads in enumerate(ranks.gather(ranks.leads_node)) if leads]
    uploads = None
    if store is not None and ranks.leads_node:
        stall = job.train.stall_minutes
        uploads = Uploads(
            store,
            execution=job.execution,
            leader=ranks.rank,
            leaders=leaders,
            keep=job.train.checkpoints.keep,
            clock=clock,
            patience=LONGEST_WAIT_SECONDS if stall is None else min(LONGEST_WAIT_SECONDS, stall * 30),
            stop_asked=stop_asked,
        )
        uploads.start()
    return Keeper(job=job, ranks=ranks, uploads=uploads)
