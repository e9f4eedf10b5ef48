"""How InternVL cuts an image into tiles, with PIL alone: the pixels must not depend on what is installed.

The rules and figures are those of OpenGVLab/InternVL 2410d1d (`internvl_chat/internvl/train/dataset.py`);
`tests/golden/internvl` holds values made by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BudgetRule = Literal["per_sample", "per_image"]
"""Whether `max_tiles` is shared by a sample's images (the original's training) or granted to each of them
(the original's evaluation)."""


@dataclass(frozen=True, kw_only=True)
class TileGeometry:
    """What the model fixes about a tile; the defaults are InternVL2.5's and InternVL3's."""

    tile_size: int = 448
    """Pixels, both sides of a tile."""
    patch_size: int = 14
    """Pixels, both sides of a patch of the vision tower."""
    downsample: float = 0.5
    """Factor on both sides of the grid of patches, by pixel shuffle."""
    thumbnail: bool = True
    """Whether an image of several tiles is followed by a tile that shows all of it."""

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that one tile takes in the prompt."""
        return tokens_per_tile(self.tile_size, self.patch_size, self.downsample)


INTERNVL_TILES = TileGeometry()


def tokens_per_tile(tile_size: int, patch_size: int, downsample: float) -> int:
    """Count the image tokens of one tile: 256 for 448 px, patches of 14 px, downsampled by 0.5."""
    return int((tile_size // patch_size) ** 2 * downsample**2)


def tile_budget(rule: BudgetRule, max_tiles: int, images: int) -> int:
    """Return how many tiles each of a sample's images may have, its thumbnail not counted.

    `per_sample` divides max_tiles among the images and gives each at least one.
    """
    if rule == "per_image":
        return max_tiles
    return max(1, max_tiles // max(1, images))


def choose_grid(
    width: int, height: int, *, max_tiles: int, min_tiles: int = 1, tile_size: int = 448
) -> tuple[int, int]:
    """Return (columns, rows) of the grid whose aspect ratio is nearest to the image's.

    Among equally near grids the one with more tiles wins if the image's area is over half of that grid's.
    Nearness is compared in floating point, as in the original. With min_tiles over 1 two grids of one area
    can be equally near; the original's choice then follows the order of a set, ours takes the grids by columns.
    """
    ratio = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(ratio - columns / rows)
        nearer = distance < best_distance
        large_enough = width * height > 0.5 * tile_size * tile_size * columns * rows
        if nearer or (distance == best_distance and large_enough):
            best, best_distance = (columns, rows), distance
    return best


@cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    if not 1 <= min_tiles <= max_tiles:
        raise ValueError(f"1 <= min_tiles <= max_tiles does not hold for {min_tiles} and {max_tiles}")
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def count_tiles(width: int, height: int, *, max_tiles: int, tile_size: int = 448, thumbnail: bool = True) -> int:
    """Count the tiles of an image of this size, its thumbnail included, without decoding it."""
    columns, rows = choose_grid(width, height, max_tiles=max_tiles, tile_size=tile_size)
    tiles = columns * rows
    return tiles + 1 if thumbnail and tiles > 1 else tiles


def cut_tiles(image: Image.Image, *, max_tiles: int, tile_size: int = 448, thumbnail: bool = True) -> list[Image.Image]:
    """Resize an RGB image (bicubic) to its grid and cut it row by row; the thumbnail comes last."""
    from PIL import Image

    columns, rows = choose_grid(image.width, image.height, max_tiles=max_tiles, tile_size=tile_size)
    resized = image.resize((columns * tile_size, rows * tile_size), Image.Resampling.BICUBIC)
    tiles = [
        resized.crop((left, top, left + tile_size, top + tile_size))
        for top in range(0, rows * tile_size, tile_size)
        for left in range(0, columns * tile_size, tile_size)
    ]
    if thumbnail and len(tiles) > 1:
        tiles.append(image.resize((tile_size, tile_size), Image.Resampling.BICUBIC))
    return tiles


def normalise(tiles: Sequence[Image.Image], *, tile_size: int = 448) -> torch.Tensor:
    """Turn RGB tiles into float32 [n, 3, tile_size, tile_size] with ImageNet's mean and deviation.

    No tiles give an empty tensor of that shape. The order of operations is torchvision's, so that the result is
    bit for bit the original's.
    """
    import numpy as np
    import torch

    if not tiles:
        return torch.empty((0, 3, tile_size, tile_size))
    pixels = torch.from_numpy(np.stack([np.asarray(tile, dtype=np.uint8) for tile in tiles]))
    scaled = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return scaled.sub_(mean).div_(std)
