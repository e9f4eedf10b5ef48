"""From a sample to what the model is trained on: token ids, labels and pixels.

Ids, labels and pixels are those of OpenGVLab/InternVL 2410d1d (`preprocess_internvl2_5`); `tests/golden/internvl`
holds values made by it.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandem.model.images import MAX_PIXELS, open_image
from tandem.model.prompt import INTERNVL2_5, EncodedTurn, Template, Tokenizer, encode_turns
from tandem.model.tiles import INTERNVL_TILES, BudgetRule, TileGeometry, count_tiles, cut_tiles, normalise, tile_budget
from tandem.train.annotations import SampleRef

if TYPE_CHECKING:
    import torch
    from PIL import Image

IGNORED = -100
"""The label of a token that is not learnt."""

JPEG_QUALITIES = (75, 100)
"""Lowest and highest quality that augmentation draws."""


@dataclass(frozen=True, kw_only=True)
class ReadingRules:
    """How every sample of a training is read."""

    max_tiles: int
    """Tiles per sample or per image; a dataset's max_dynamic_patch overrides it."""
    max_length: int
    """Tokens, image tokens included."""
    budget: BudgetRule = "per_sample"
    template: Template = INTERNVL2_5
    geometry: TileGeometry = INTERNVL_TILES
    cut_tail: bool = False
    """Whether a sample that is too long loses its tail, end token and all, as in the original, as long as no
    image token and not every label is lost; otherwise it is TooLong."""
    max_pixels: int = MAX_PIXELS
    """Width times height of an image that is still decoded."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a sample is, in tokens."""

    tokens: int
    image_tokens: int
    """`<IMG_CONTEXT>` only, the tokens around it not counted."""
    labelled: int


@dataclass(frozen=True, kw_only=True)
class TooLong:
    """A sample over the length that may not be cut; to be counted and reported."""

    place: str
    length: Length
    max_length: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """What one sample gives the model."""

    input_ids: list[int]
    labels: list[int]
    """One for each id; -100 wherever nothing is learnt."""
    pixels: torch.Tensor
    """float32 [tiles, 3, tile_size, tile_size]; no tiles for a sample without images."""
    tiles_per_image: tuple[int, ...]
    """Thumbnails included."""
    tokens_cut: int
    """Tokens that the tail has lost; 0 for almost every sample."""

    @property
    def tiles(self) -> int:
        """All tiles of the sample."""
        return sum(self.tiles_per_image)


def build_example(
    sample: SampleRef,
    tokenizer: Tokenizer,
    *,
    rules: ReadingRules,
    rng: random.Random,
    open_picture: Callable[..., Image.Image] = open_image,
) -> Example | TooLong:
    """Open a sample's images and turn it into ids, labels and pixels.

    `rng` is drawn from once a tile, and only if the sample's dataset is augmented. `open_picture` is called as
    `open_image` is, and may remember what it returned.
    Raises BadData (an image that cannot be used) and BadConfiguration (a tokenizer that does not fit).
    """
    images = [open_picture(path, max_pixels=rules.max_pixels, place=sample.place) for path in sample.images]
    tiles_per_image = count_sample_tiles(sample, [image.size for image in images], rules=rules)
    image_tokens = [tiles * rules.geometry.tokens_per_tile for tiles in tiles_per_image]
    turns = encode_turns(tokenizer, sample.turns, image_tokens, template=rules.template, place=sample.place)
    ids = [token for turn in turns for token in turn.ids]
    labels = [label for turn in turns for label in _label(turn)]
    if len(ids) > rules.max_length and not _may_cut(ids, labels, tokenizer, rules):
        return TooLong(
            place=sample.place,
            length=Length(
                tokens=len(ids),
                image_tokens=sum(image_tokens),
                labelled=len(labels) - labels.count(IGNORED),
            ),
            max_length=rules.max_length,
        )
    tiles = _cut_all(sample, images, rules)
    if sample.augment:
        tiles = [degrade(tile, rng.randint(*JPEG_QUALITIES)) for tile in tiles]
    return Example(
        input_ids=ids[: rules.max_length],
        labels=labels[: rules.max_length],
        pixels=normalise(tiles, tile_size=rules.geometry.tile_size),
        tiles_per_image=tiles_per_image,
        tokens_cut=max(0, len(ids) - rules.max_length),
    )


def measure_length(
    sample: SampleRef, tokenizer: Tokenizer, sizes: Sequence[tuple[int, int]], *, rules: ReadingRules
) -> Length:
    """Count the tokens that `build_example` would give, from the images' (width, height) alone.

    Raises as `encode_turns` does.
    """
    tiles = sum(count_sample_tiles(sample, sizes, rules=rules))
    image_tokens = tiles * rules.geometry.tokens_per_tile
    without = [0] * len(sizes)
    turns = encode_turns(tokenizer, sample.turns, without, template=rules.template, place=sample.place)
    labels = [label for turn in turns for label in _label(turn)]
    return Length(
        tokens=len(labels) + image_tokens,
        image_tokens=image_tokens,
        labelled=len(labels) - labels.count(IGNORED),
    )


def count_sample_tiles(sample: SampleRef, sizes: Sequence[tuple[int, int]], *, rules: ReadingRules) -> tuple[int, ...]:
    """Count each image's tiles, thumbnails included, from the images' (width, height)."""
    geometry = rules.geometry
    most = _tiles_per_image(sample, rules)
    return tuple(
        count_tiles(width, height, max_tiles=most, tile_size=geometry.tile_size, thumbnail=geometry.thumbnail)
        for width, height in sizes
    )


def degrade(tile: Image.Image, quality: int) -> Image.Image:
    """Return the tile as it looks after JPEG compression of this quality."""
    from PIL import Image

    with io.BytesIO() as file:
        tile.save(file, format="JPEG", quality=quality)
        with Image.open(file) as compressed:
            return compressed.copy()


def _tiles_per_image(sample: SampleRef, rules: ReadingRules) -> int:
    max_tiles = rules.max_tiles if sample.max_tiles is None else sample.max_tiles
    return tile_budget(rules.budget, max_tiles, len(sample.images))


def _cut_all(sample: SampleRef, images: Sequence[Image.Image], rules: ReadingRules) -> list[Image.Image]:
    geometry = rules.geometry
    most = _tiles_per_image(sample, rules)
    return [
        tile
        for image in images
        for tile in cut_tiles(image, max_tiles=most, tile_size=geometry.tile_size, thumbnail=geometry.thumbnail)
    ]


def _label(turn: EncodedTurn) -> list[int]:
    """Label an answer and its end token, but neither its header nor the newline after it."""
    if turn.role != "assistant":
        return [IGNORED] * len(turn.ids)
    return [IGNORED] * turn.header + turn.ids[turn.header : -1] + [IGNORED]


def _may_cut(ids: Sequence[int], labels: Sequence[int], tokenizer: Tokenizer, rules: ReadingRules) -> bool:
    image_end = tokenizer.convert_tokens_to_ids(rules.template.image_end)
    lost_ids, kept_labels = ids[rules.max_length :], labels[: rules.max_length]
    return rules.cut_tail and image_end not in lost_ids and any(label != IGNORED for label in kept_labels)
