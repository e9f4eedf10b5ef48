"""Making everything that the demo's Run starts from: all of it or nothing, and only once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tandem.demo.base import BaseRecipe, train_base
from tandem.demo.data import BASE_META, TRAIN_META, write_data
from tandem.errors import BadConfiguration, Fault
from tandem.model.libraries import load_libraries
from tandem.train.annotations import read_samples
from tandem.train.meta import read_meta

VERSION = 4
"""Of the files that are written; to be raised whenever pictures, questions or the way of training change."""

STAMP = "demo.json"
PARTS = ("data", "base")


def prepare_demo(
    folder: Path,
    *,
    seed: int,
    recipe: BaseRecipe | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Write data/ (pictures, meta files, JSON lines, the evaluation file) and base/ (a trained model) into `folder`.

    What was made before with the same version, seed and recipe stays as it is; what was made otherwise is
    replaced once all of it is ready. Whatever else lies in the folder is left alone. report gets a line now and then.
    Raises BadConfiguration if data/ or base/ are there but not the demo's, or if scikit-learn is missing.
    """
    recipe = recipe or BaseRecipe()
    stamp = {"version": VERSION, "seed": seed, "recipe": asdict(recipe)}
    if _read_stamp(folder) == stamp:
        report(f"{folder} is complete: nothing to do")
        return
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as room:
        made = Path(room, "made")
        _make(made, seed=seed, recipe=recipe, report=report)
        _exchange(made, folder, Path(room, "replaced"))
    _write_stamp(folder, stamp)


def _make(made: Path, *, seed: int, recipe: BaseRecipe, report: Callable[[str], None]) -> None:
    data = made / "data"
    data.mkdir(parents=True)
    report("drawing 1,797 handwritten digits and asking questions about them")
    write_data(data, seed=seed)
    report("training the base model in full, so that it can read digits (about a minute)")
    load_libraries()
    train_base(
        data / BASE_META,
        made / "base",
        seed=seed,
        corpus=[turn.text for sample in read_samples(read_meta(data / TRAIN_META)) for turn in sample.turns],
        recipe=recipe,
        report=lambda step, loss: _report_step(step, recipe.steps, loss, report),
    )


def _exchange(made: Path, folder: Path, replaced: Path) -> None:
    """Put what was made in the place of what was there; until the right stamp is written it counts as incomplete."""
    _write_stamp(folder, {})
    replaced.mkdir()
    for name in PARTS:
        if (folder / name).exists():
            (folder / name).rename(replaced / name)
        (made / name).rename(folder / name)


def _report_step(step: int, steps: int, loss: float, report: Callable[[str], None]) -> None:
    if step % 50 == 0 or step == steps:
        report(f"step {step} of {steps}, loss {loss:.4f}")


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_bytes())
    except (OSError, ValueError):
        return None


def _write_stamp(folder: Path, stamp: object) -> None:
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def _refuse_foreign(folder: Path) -> None:
    where = [folder] if folder.exists() and not folder.is_dir() else []
    if not (folder / STAMP).is_file():
        where += [folder / name for name in PARTS if (folder / name).exists()]
    if where:
        remedy = "Choose another folder for the demo, or move it away"
        raise BadConfiguration(
            [Fault(where=str(path), what="was not made by the demo", remedy=remedy) for path in where]
        )
