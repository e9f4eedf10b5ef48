"""Keys and values in pages: a sequence holds as many as its tokens need, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tandem.evaluate.fast.weights import Shape

PAGE = 64
"""Tokens of a page."""

WASTE = 0
"""The page that idle slots write to; it belongs to no sequence."""


@dataclass(frozen=True, kw_only=True)
class PagedCache:
    """Keys and values of all layers; token n of a sequence lies in its page n // PAGE, at n % PAGE."""

    keys: torch.Tensor
    """[layers, pages x PAGE, key heads, head size]"""
    values: torch.Tensor

    @property
    def pages(self) -> int:
        """How many there are, the waste page included."""
        return self.keys.shape[1] // PAGE


def make_cache(pages: int, *, layers: int, shape: Shape, like: torch.Tensor) -> PagedCache:
    """A cache of so many pages besides the waste page, of like's type, on its device.

    It is zeroed: what lies beyond a sequence's end is read and weighed with zero, and zero times NaN is NaN.
    """
    size = (layers, (pages + 1) * PAGE, shape.key_heads, shape.head_size)
    return PagedCache(keys=like.new_zeros(size), values=like.new_zeros(size))


def count_token_bytes(*, layers: int, shape: Shape, like: torch.Tensor) -> int:
    """Bytes that one token takes in the cache."""
    return 2 * layers * shape.key_heads * shape.head_size * like.element_size()


def count_pages(tokens: int) -> int:
    """Pages that a sequence of so many tokens holds."""
    return -(-tokens // PAGE)


class FreePages:
    """Which pages belong to nobody; the lowest go first, so that the same requests get the same pages."""

    def __init__(self, pages: int) -> None:
        self._free = list(range(pages - 1, WASTE, -1))

    def __len__(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Raises ValueError if there are fewer."""
        if count > len(self._free):
            raise ValueError(f"{count} pages wanted, {len(self._free)} free")
        return [self._free.pop() for _ in range(count)]

    def give(self, pages: Sequence[int]) -> None:
        """Give pages back."""
        self._free.extend(pages)
        self._free.sort(reverse=True)
