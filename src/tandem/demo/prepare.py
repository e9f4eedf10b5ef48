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
from tandem.train.meta import read_meta, read_samples

VERSION = 1
"""Of the files that are written; to be raised whenever pictures, questions or the way of training change."""

STAMP = "demo.json"


def prepare_demo(
    folder: Path,
    *,
    seed: int,
    recipe: BaseRecipe | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Write data/ (pictures, meta files, JSON lines, the evaluation file) and base/ (a trained model) into `folder`.

    What was made before with the same version, seed and recipe stays as it is; what was made otherwise is
    replaced. The folder appears complete or not at all. report gets a line now and then.
    Raises BadConfiguration if the folder holds something else, or if scikit-learn is missing.
    """
    recipe = recipe or BaseRecipe()
    stamp = {"version": VERSION, "seed": seed, "recipe": asdict(recipe)}
    if _read_stamp(folder) == stamp:
        report(f"{folder} is complete: nothing to do")
        return
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as room:
        made, replaced = Path(room, "made"), Path(room, "replaced")
        data = made / "data"
        data.mkdir(parents=True)
        report("drawing 1,797 handwritten digits and asking questions about them")
        write_data(data, seed=seed)
        report("training the base model in full, so that it can read digits (about a minute)")
        train_base(
            data / BASE_META,
            made / "base",
            seed=seed,
            corpus=[turn.text for sample in read_samples(read_meta(data / TRAIN_META)) for turn in sample.turns],
            recipe=recipe,
            report=lambda step, loss: _report_step(step, recipe.steps, loss, report),
        )
        (made / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(replaced)
        made.rename(folder)


def _report_step(step: int, steps: int, loss: float, report: Callable[[str], None]) -> None:
    if step % 50 == 0 or step == steps:
        report(f"step {step} of {steps}, loss {loss:.4f}")


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_bytes())
    except (OSError, ValueError):
        return None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / STAMP).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadConfiguration(
            Fault(
                where=str(folder),
                what="holds something that is not the demo's",
                remedy="Choose another folder, or empty this one",
            )
        )
