"""Checkpoints on this node: what makes one whole, what it is called, how many stay; and which are in the store."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem.store import Store
from tandem.store.manifest import MANIFEST
from tandem.train.fitting import Memory

PROGRESS = "progress.json"

_COMPLETE = re.compile(rf"[^/]+/checkpoints/step-(\d+)/{re.escape(MANIFEST)}")


class Measurement(BaseModel):
    """The validation loss after a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    loss: float


class Progress(BaseModel):
    """How far a checkpoint is, and what it can be continued by."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: Literal["tandem.dev/checkpoint/v1"] = Field(default="tandem.dev/checkpoint/v1", alias="schema")
    step: int = Field(ge=1)
    """Optimizer steps done."""
    steps: int = Field(ge=1)
    """Optimizer steps of the whole training."""
    ranks: int = Field(ge=1, le=2**16)
    """Processes whose states are in it."""
    zero_stage: int
    data: str
    """Digest of the training set's order and lengths (see Corpus.digest)."""
    validation: tuple[Measurement, ...] = ()
    """All validation losses so far."""
    memory: Memory | None = None
    """What its micro-batches were held to, and those that follow are; None in older ones: to what the Run says."""


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


def rotate_checkpoints(folder: Path, *, keep: int, needed: Collection[Path] = ()) -> None:
    """Leave only the newest on this node's disk, and those that are still needed; the store keeps all."""
    for old in sorted(folder.glob("step-*"), key=_step_of)[:-keep]:
        if old not in needed:
            shutil.rmtree(old)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def find_complete(store: Store, prefix: str) -> list[tuple[int, str]]:
    """(step, key prefix) of every checkpoint below prefix that has its manifest, the newest first."""
    return sorted(_complete(store, prefix), reverse=True)


def _complete(store: Store, prefix: str) -> Iterator[tuple[int, str]]:
    for entry in store.list(prefix):
        match = _COMPLETE.fullmatch(entry.key.removeprefix(prefix).lstrip("/"))
        if match is not None:
            yield int(match[1]), entry.key.removesuffix(f"/{MANIFEST}")
