"""Scikit-learn's handwritten digits, drawn large and split so that no digit is in two sets."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tandem.demo.questions import Picture
from tandem.errors import BadConfiguration, Fault

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SIZE = 56
"""Pixels, both sides: one tile of the demo's model. The originals have 8."""

SPLITS: Mapping[str, int] = MappingProxyType({"base": 1300, "train": 247, "validation": 50, "heldout": 200})
"""How many of the 1,797 digits each set gets."""


def draw_digits(folder: Path, *, seed: int) -> dict[str, list[Picture]]:
    """Write each digit as a PNG file under `folder`/images/<split>/, split at random by `seed`.

    Source: the 1,797 digits of the UCI optical recognition test set, as `sklearn.datasets.load_digits` ships them
    (8 x 8 pixels, 17 grey levels). Raises BadConfiguration if scikit-learn is not installed.
    """
    images, target = _load_digits()
    order = list(range(len(target)))
    random.Random(seed).shuffle(order)  # noqa: S311
    pictures: dict[str, list[Picture]] = {}
    for split, count in SPLITS.items():
        (folder / "images" / split).mkdir(parents=True)
        chosen, order = order[:count], order[count:]
        pictures[split] = []
        for number in sorted(chosen):
            name = f"images/{split}/{number:04}.png"
            draw_digit(images[number]).save(folder / name)
            pictures[split].append(Picture(name=name, digit=int(target[number])))
    return pictures


def draw_digit(levels: Any) -> Image.Image:
    """Draw an 8 x 8 array of grey levels from 0 (paper) to 16 (ink) as dark ink on white paper."""
    import numpy as np
    from PIL import Image

    grey = Image.fromarray(np.rint(255 - np.asarray(levels) * (255 / 16)).astype(np.uint8))
    return grey.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)


def _load_digits() -> tuple[Any, Any]:
    """All pictures [1797, 8, 8] and their digits [1797], from scikit-learn's file.

    Importing scikit-learn for it would take longer than drawing them all.
    """
    import numpy as np

    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise BadConfiguration(
            Fault(where="demo", what="scikit-learn is not installed", remedy="Install the extra: tandem[demo]")
        )
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
