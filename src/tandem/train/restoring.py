"""The choice of the checkpoint to go on from, and its way to every node."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from tandem.errors import BadConfiguration, BadData, Fault, TandemError, Unavailable
from tandem.store import Corrupt, NotThere, Store, download_tree
from tandem.train.checkpoints import PROGRESS, Progress, checkpoint_name, find_complete
from tandem.train.metrics import METRICS
from tandem.train.ranks import Ranks

logger = logging.getLogger("tandem.train")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint on this node, whole and verified."""

    folder: Path
    progress: Progress
    source: str
    """Its key prefix in the store."""


def restore_newest(store: Store, prefix: str, folder: Path, ranks: Ranks, *, ranks_wanted: int) -> Restored | None:
    """Fetch the newest complete and intact checkpoint of any execution below prefix, or None if there is none.

    Rank 0 chooses for all, and says which broken ones it passed over; each node fetches its own copy below folder.
    All ranks must call it, and all raise what one of them met: BadConfiguration if the checkpoint was made by another
    number of ranks, Unavailable while the store is away.
    """
    chosen: Restored | None = None
    with ranks.agreeing():
        if ranks.leads_all:
            chosen = _choose(store, prefix, folder, ranks_wanted=ranks_wanted)
    chosen = ranks.share(chosen)
    with ranks.agreeing():
        if chosen is not None:
            chosen = replace(chosen, folder=folder / chosen.folder.name)
            if ranks.leads_node and not ranks.leads_all:
                _fetch_again(store, chosen)
    return chosen


def _fetch_again(store: Store, chosen: Restored) -> None:
    shutil.rmtree(chosen.folder, ignore_errors=True)
    try:
        download_tree(store, chosen.source, chosen.folder)
    except (Corrupt, NotThere) as error:  # rank 0 has just read it whole
        raise Unavailable(error.faults) from None


def _choose(store: Store, prefix: str, folder: Path, *, ranks_wanted: int) -> Restored | None:
    for step, source in find_complete(store, prefix):
        target = folder / checkpoint_name(step)
        shutil.rmtree(target, ignore_errors=True)
        try:
            download_tree(store, source, target)
            progress = Progress.model_validate_json((target / PROGRESS).read_bytes())
        except (Corrupt, NotThere, BadData, ValidationError, OSError) as error:
            _pass_over(source, _first_line(error))
            continue
        if progress.step != step:
            _pass_over(source, f"its {PROGRESS} says step {progress.step}")
            continue
        lacking = next(_list_lacking(target, progress), None)
        if lacking is not None:
            _pass_over(source, f"{lacking} is not in it")
            continue
        if progress.ranks != ranks_wanted:
            raise BadConfiguration(
                Fault(
                    where=f"train.ranks: {source}",
                    what=f"the checkpoint was made by {progress.ranks} ranks and cannot go on with {ranks_wanted}",
                    remedy=f"Use a profile with {progress.ranks} ranks, or start anew with --again.",
                )
            )
        return Restored(folder=target, progress=progress, source=source)
    return None


def _pass_over(source: str, reason: str) -> None:
    logger.warning("checkpoint %s is broken and passed over: %s", source, reason)


def _list_lacking(folder: Path, progress: Progress) -> Iterator[str]:
    """Files that Trainer or DeepSpeed needs and, where one is missing, does without in silence."""
    states = ["rng_state.pth"] if progress.ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(progress.ranks)]
    for name in ("adapter_model.safetensors", "trainer_state.json", "scheduler.pt", METRICS, *states):
        if not (folder / name).is_file():
            yield name
    if progress.zero_stage == 0:
        if not (folder / "optimizer.pt").is_file():
            yield "optimizer.pt"
        return
    for rank in range(progress.ranks):
        name = f"global_step{progress.step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        if not (folder / name).is_file():
            yield name
    for name in ("latest", f"global_step{progress.step}/mp_rank_00_model_states.pt"):
        if not (folder / name).is_file():
            yield name


def _first_line(error: Exception) -> str:
    if isinstance(error, TandemError):
        return str(error.faults[0])
    return (str(error).splitlines() or [type(error).__name__])[0]
