from __future__ import annotations

import torch

from tandem.train.collate import pack, pad
from tandem.train.samples import IGNORED, Example


def example(*ids: int, tiles: int = 0) -> Example:
    return Example(
        input_ids=list(ids),
        labels=[IGNORED, *ids[1:]],
        pixels=torch.full((tiles, 3, 2, 2), float(ids[0])),
        tiles_per_image=(1,) * tiles,
        tokens_cut=0,
    )


def test_packing_puts_examples_in_one_row_and_says_where_they_end() -> None:
    batch = pack([example(1, 2, tiles=1), example(3, 4, 5), example(6, 7, tiles=2)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch["labels"].tolist() == [[IGNORED, 2, IGNORED, 4, 5, IGNORED, 7]]
    assert batch["sequence_lengths"].tolist() == [2, 3, 2]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 6.0, 6.0]


def test_padding_fills_rows_on_the_right_and_masks_what_it_fills() -> None:
    batch = pad([example(0, 2), example(3, 0, 5)])
    assert batch["input_ids"].tolist() == [[0, 2, 0], [3, 0, 5]]
    assert batch["labels"].tolist() == [[IGNORED, 2, IGNORED], [IGNORED, 0, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_text_alone_has_no_pixels() -> None:
    assert "pixel_values" not in pack([example(1, 2)])
    assert "pixel_values" not in pad([example(1, 2)])
