"""Checkpoints: finished locally, then in the store, manifest last; and the choice of the one to go on from."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadConfiguration, BadData, Fault, Unavailable
from tandem.store import Corrupt, FileDigest, NotThere, Store, download_tree
from tandem.store.keys import join
from tandem.store.manifest import MANIFEST, encode_manifest, list_folder
from tandem.store.parallel import in_parallel
from tandem.train.ranks import Ranks

logger = logging.getLogger("tandem.train")

PROGRESS = "progress.json"
UPLOADS_AT_ONCE = 8

_COMPLETE = re.compile(rf"[^/]+/checkpoints/step-(\d+)/{re.escape(MANIFEST)}")


class Measurement(BaseModel):
    """The validation loss after a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    loss: float


class Progress(BaseModel):
    """How far a checkpoint is, and what it can be continued by."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["tandem.dev/checkpoint/v1"] = Field(default="tandem.dev/checkpoint/v1", alias="schema")
    step: int = Field(ge=1)
    """Optimizer steps done."""
    steps: int = Field(ge=1)
    """Optimizer steps of the whole training."""
    ranks: int = Field(ge=1)
    """Processes whose states are in it."""
    zero_stage: int
    data: str
    """Digest of the training set's order and lengths (see Corpus.digest)."""
    validation: tuple[Measurement, ...] = ()
    """All validation losses so far."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint on this node, whole and verified."""

    folder: Path
    progress: Progress
    source: str
    """Its key prefix in the store."""


def checkpoint_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


def finish_checkpoint(written: Path, target: Path, *, progress: Progress, metrics: Path | None) -> None:
    """Complete what the trainer has written on this node, then give it its name: a folder so named is whole.

    metrics is copied in on the node that has it, so that a resumed training knows its past.
    """
    (written / PROGRESS).write_text(progress.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
    if metrics is not None:
        shutil.copyfile(metrics, written / metrics.name)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    written.rename(target)


def rotate_checkpoints(folder: Path, *, keep: int) -> None:
    """Leave only the newest on this node's disk; the store keeps all."""
    for old in sorted(folder.glob("step-*"), key=_step_of)[:-keep]:
        shutil.rmtree(old)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def upload_checkpoint(store: Store, folder: Path, prefix: str, ranks: Ranks) -> None:
    """Put one checkpoint into the store: each node its own files, then rank 0 the manifest of all of them.

    All ranks must call it. What only one node has (the adapter) and what each has of its own (optimizer states)
    never share a name but for PROGRESS, which rank 0's node writes. Raises Unavailable if the store is away.
    """
    ours: dict[str, FileDigest] = {}
    if ranks.leads_node:
        paths = [path for path in list_folder(folder) if ranks.leads_all or path != PROGRESS]

        def put(path: str) -> FileDigest:
            return store.put_file_if_absent(join(prefix, path), folder / path)

        ours = dict(zip(paths, in_parallel(put, paths, UPLOADS_AT_ONCE), strict=True))
    everywhere = ranks.gather(ours)
    if ranks.leads_all:
        manifest = {path: digest for of_node in everywhere for path, digest in of_node.items()}
        store.put_if_absent(join(prefix, MANIFEST), encode_manifest(manifest))
    ranks.wait()


def restore_newest(store: Store, prefix: str, folder: Path, ranks: Ranks, *, ranks_wanted: int) -> Restored | None:
    """Fetch the newest complete and intact checkpoint of any execution below prefix, or None if there is none.

    Rank 0 chooses for all, and says which broken ones it passed over; each node fetches its own copy below folder.
    All ranks must call it. Raises BadConfiguration if the checkpoint was made by another number of ranks.
    """
    failure: BadConfiguration | None = None
    chosen: Restored | None = None
    if ranks.leads_all:
        try:
            chosen = _choose(store, prefix, folder, ranks_wanted=ranks_wanted)
        except BadConfiguration as error:
            failure = error
    faults = ranks.share(failure.faults if failure is not None else ())
    if faults:
        raise BadConfiguration(faults)
    chosen = ranks.share(chosen)
    if chosen is not None:
        chosen = replace(chosen, folder=folder / chosen.folder.name)
        if ranks.leads_node and not ranks.leads_all:
            _fetch_again(store, chosen)
    ranks.wait()
    return chosen


def _fetch_again(store: Store, chosen: Restored) -> None:
    shutil.rmtree(chosen.folder, ignore_errors=True)
    try:
        download_tree(store, chosen.source, chosen.folder)
    except (Corrupt, NotThere) as error:  # rank 0 has just read it whole
        raise Unavailable(error.faults) from None


def find_complete(store: Store, prefix: str) -> list[tuple[int, str]]:
    """(step, key prefix) of every checkpoint below prefix that has its manifest, the newest first."""
    return sorted(_complete(store, prefix), reverse=True)


def _complete(store: Store, prefix: str) -> Iterator[tuple[int, str]]:
    for entry in store.list(prefix):
        match = _COMPLETE.fullmatch(entry.key.removeprefix(prefix).lstrip("/"))
        if match is not None:
            yield int(match[1]), entry.key.removesuffix(f"/{MANIFEST}")


def _choose(store: Store, prefix: str, folder: Path, *, ranks_wanted: int) -> Restored | None:
    for step, source in find_complete(store, prefix):
        target = folder / checkpoint_name(step)
        shutil.rmtree(target, ignore_errors=True)
        try:
            download_tree(store, source, target)
            progress = Progress.model_validate_json((target / PROGRESS).read_bytes())
        except (Corrupt, NotThere, BadData, ValidationError, OSError) as error:
            logger.warning("checkpoint %s is broken and passed over: %s", source, _first_line(error))
            continue
        if progress.ranks != ranks_wanted:
            raise BadConfiguration(
                Fault(
                    where=f"train.ranks: {source}",
                    what=f"the checkpoint was made by {progress.ranks} ranks and cannot go on with {ranks_wanted}",
                    remedy=f"Use a profile with {progress.ranks} ranks, or start anew with `tandem submit --again`.",
                )
            )
        return Restored(folder=target, progress=progress, source=source)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
