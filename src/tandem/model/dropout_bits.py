"""Dropout masks that are computed from a position and a seed, so that the backward pass needs no stored mask.

One 32-bit hash serves two masks, 16 bits each: a share p is dropped with a resolution of 1 / 65536. The kernels in
lora_kernels.py compute the same bits. Importing this module imports torch.
"""

from __future__ import annotations

import torch

LOW_32 = 0xFFFFFFFF


def hashes_for(masks: int) -> int:
    """How many seeds so many masks need."""
    return (masks + 1) // 2


def drop_below(p: float) -> int:
    """The 16-bit value under which a position is dropped."""
    return round(p * 65536)


def draw_seeds(layers: int, each: int, device: torch.device) -> torch.Tensor:
    """Seeds, int64 [layers, each], from torch's generator of this device: they follow torch.manual_seed."""
    return torch.randint(0, 2**62, (layers, each), device=device)


def keep_mask(seed: torch.Tensor, rows: int, columns: int, *, half: int, p: float) -> torch.Tensor:
    """Boolean [rows, columns], False with probability p; `half` (0 or 1) chooses which 16 bits of the hash count.

    The mixing steps are those of Chris Wellons' lowbias32 (public domain), with the seed's halves put in before each
    of its multiplications.
    """
    bits = torch.arange(rows * columns, device=seed.device).view(rows, columns)
    bits = bits ^ (seed & LOW_32)
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & LOW_32
    bits = bits ^ (seed >> 32)
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x846CA68B) & LOW_32
    bits = bits ^ (bits >> 16)
    drawn = (bits >> 16) if half else (bits & 0xFFFF)
    return drawn >= drop_below(p)
