"""From examples to the tensors of one micro-batch: packed in one row, or padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tandem.train.samples import IGNORED, Example

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
"""Arguments of TrainableInternVL.forward by their names."""


def pack(examples: Sequence[Example]) -> Tensors:
    """One row [1, T] of all examples in a row, with sequence_lengths [samples] that keep them apart."""
    import torch

    return {
        "input_ids": torch.tensor([[token for example in examples for token in example.input_ids]]),
        "labels": torch.tensor([[label for example in examples for label in example.labels]]),
        "sequence_lengths": torch.tensor([len(example.input_ids) for example in examples]),
        **_join_pixels(examples),
    }


def pad(examples: Sequence[Example]) -> Tensors:
    """Rows [B, T] as long as the longest example, with an attention_mask.

    What a filled-up place holds does not matter: the mask says that it is none, never its token id.
    """
    import torch

    longest = max(len(example.input_ids) for example in examples)

    def fill(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])

    return {
        "input_ids": fill([example.input_ids for example in examples], 0),
        "labels": fill([example.labels for example in examples], IGNORED),
        "attention_mask": fill([[1] * len(example.input_ids) for example in examples], 0),
        **_join_pixels(examples),
    }


def _join_pixels(examples: Sequence[Example]) -> Tensors:
    """pixel_values [tiles, 3, side, side] of all examples, if any has an image."""
    import torch

    pixels = [example.pixels for example in examples if example.tiles]
    return {"pixel_values": torch.cat(pixels)} if pixels else {}
