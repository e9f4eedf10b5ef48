"""Tiles to features, many at once; pixels travel to the device as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tandem.model.tiles import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from PIL import Image

TILES_AT_ONCE = 64
"""Tiles that go through the vision tower together."""


def stack_tiles(tiles: Sequence[Image.Image], *, tile_size: int) -> torch.Tensor:
    """uint8 [n, tile_size, tile_size, 3] of RGB tiles; no tiles give an empty tensor of that shape."""
    if not tiles:
        return torch.empty((0, tile_size, tile_size, 3), dtype=torch.uint8)
    return torch.from_numpy(np.stack([np.asarray(tile, dtype=np.uint8) for tile in tiles]))


def encode_tiles(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features [n x tokens of a tile, hidden] of uint8 tiles [n, side, side, 3]; n must not be 0."""
    return torch.cat(
        [
            network.model.get_image_features(
                pixel_values=normalise_pixels(part.to(network.device, non_blocking=True)).to(network.dtype),
                return_dict=True,
            ).pooler_output.flatten(0, 1)
            for part in torch.split(pixels, TILES_AT_ONCE)
        ]
    )


def normalise_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """float32 [n, 3, side, side] of uint8 [n, side, side, 3], bit for bit what `model.tiles.normalise` makes."""
    whole, mean, std = _place_constants(pixels.device)
    return pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(whole).sub_(mean).div_(std)


@cache
def _place_constants(device: torch.device) -> tuple[torch.Tensor, ...]:
    """255, mean and deviation: once for each device, because the host waits while a constant is placed.

    On a GPU a plain number as divisor would become a product with its reciprocal.
    """
    with torch.inference_mode(False):
        return (
            torch.tensor(255.0, device=device),
            *(torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD)),
        )
