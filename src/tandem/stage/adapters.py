"""The adapter of a Run: what training committed, one of its checkpoints, or the one that the Run file names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.record.commit import Commit, Tree, fetch_files, read_commit, read_file
from tandem.spec import Subject
from tandem.store import Store
from tandem.store.layout import RunPlace

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "tandem.json")
"""What is needed of an adapter or checkpoint; a checkpoint's optimizer state stays where it is."""


def fetch_trained_adapter(store: Store, place: RunPlace, subject: Subject, step: int | None, work: Path) -> Path:
    """Bring what training committed into `work` and return its folder, with the card.

    `step` chooses a checkpoint; without it `subject` does. Raises NotThere if training has not been committed,
    BadData if there is no checkpoint of this step.
    """
    commit = read_commit(store, place, "train")
    folder = work / "adapter"
    if subject is Subject.ADAPTER and step is None:
        names = tuple(f"adapter/{name}" for name in ADAPTER_FILES)
        fetch_files(store, commit.tree, names, work)
        return folder
    wanted = step if step is not None else _choose_step(store, commit, subject)
    fetch_files(store, _find_checkpoint(commit, wanted), ADAPTER_FILES, folder)
    if not (folder / "tandem.json").exists():
        fetch_files(store, commit.tree, ("adapter/tandem.json",), work / "card")
        shutil.copy(work / "card" / "adapter" / "tandem.json", folder / "tandem.json")
    return folder


def _choose_step(store: Store, commit: Commit, subject: Subject) -> int:
    if subject is Subject.CHECKPOINT_LAST:
        return max(commit.checkpoints)
    best = json.loads(read_file(store, commit.tree, "train.json"))["checkpoints"]["best"]
    if best is None:
        what = "training had no validation, so none of its checkpoints is the best"
        raise BadData(Fault(where=commit.tree.prefix, what=what, remedy="Choose the last one, or a step."))
    return int(best["step"])


def _find_checkpoint(commit: Commit, step: int) -> Tree:
    tree = commit.checkpoints.get(step)
    if tree is None:
        raise BadData(
            Fault(
                where=f"checkpoint of step {step}",
                what=f"is not in the store, which has {sorted(commit.checkpoints)}",
                remedy="Take one of those, or the adapter.",
            )
        )
    return tree
