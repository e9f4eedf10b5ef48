"""From a question and its images to what the model reads: prompt ids and tiles, made when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tandem.errors import BadData, Fault
from tandem.evaluate.records import EvalSample, FaultList
from tandem.model.images import open_image, probe_image
from tandem.model.prompt import Template, Tokenizer, Turn, encode_prompt
from tandem.model.tiles import BudgetRule, TileGeometry, count_tiles, cut_tiles, tile_budget
from tandem.spec import TileRule

if TYPE_CHECKING:
    from PIL import Image

MeasuredImage = tuple[Path, tuple[int, int]]
"""A file, and its width and height in pixels."""

PreparedT = TypeVar("PreparedT")

BUDGET_RULES: Mapping[TileRule, BudgetRule] = {TileRule.PER_SAMPLE: "per_sample", TileRule.PER_IMAGE: "per_image"}


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Everything besides the sample that decides what the model reads."""

    template: Template
    max_tiles: int
    """Tiles (count) per sample or per image, thumbnails not included."""
    budget: BudgetRule
    geometry: TileGeometry
    most_tokens: int
    """Longest prompt (tokens) that leaves room for the new tokens within the model's positions."""


@dataclass(frozen=True, kw_only=True)
class PreparedSample:
    """A sample whose place in a batch can be planned; ids and pixels are made by `encode_sample` and `load_tiles`."""

    sample: EvalSample
    place: str
    """Evaluation file and sample, for messages."""
    images: tuple[Path, ...]
    tiles_per_image: tuple[int, ...]
    """Tiles (count) of each image, thumbnails included."""
    prompt_tokens: int
    """Length of the prompt, image tokens included."""

    @property
    def tiles(self) -> int:
        """Tiles of all images together, thumbnails included."""
        return sum(self.tiles_per_image)


def prepare_samples(
    samples: Sequence[EvalSample], *, data: Path, images: Path, tokenizer: Tokenizer, settings: PromptSettings
) -> list[PreparedSample]:
    """Measure every prompt and look at every image, so that nothing turns out to be missing in the middle.

    `data` names the evaluation file in messages, `images` is the folder of the images.
    Raises BadData with all faults of all samples at once: images missing or broken, placeholders that do not fit,
    prompts too long for the model. Raises Unavailable if the file system fails.
    """

    def prepare(sample: EvalSample, place: str, measured: Sequence[MeasuredImage]) -> PreparedSample:
        return _prepare(sample, place, measured, tokenizer=tokenizer, settings=settings)

    return prepare_each(samples, prepare, data=data, images=images)


def prepare_each(
    samples: Sequence[EvalSample],
    prepare: Callable[[EvalSample, str, Sequence[MeasuredImage]], PreparedT],
    *,
    data: Path,
    images: Path,
) -> list[PreparedT]:
    """Look at every image and prepare every sample, each with its place in `data` and its images as they were found.

    Raises BadData with all faults of all samples at once, images' and whatever `prepare` raises; Unavailable if the
    file system fails.
    """
    sizes, broken = _measure_images({images / name for sample in samples for name in sample.images})
    prepared: list[PreparedT] = []
    faults = FaultList()
    for sample in samples:
        place = f"{data}: sample {sample.sample_id!r}"
        paths = [images / name for name in sample.images]
        unreadable = [fault for path in dict.fromkeys(paths) for fault in broken.get(path, ())]
        if unreadable:
            faults.extend([replace(fault, where=f"{place}: {fault.where}") for fault in unreadable])
            continue
        measured = [(path, sizes[path]) for path in paths]
        try:
            prepared.append(prepare(sample, place, measured))
        except BadData as error:
            faults.extend(error.faults)
    faults.raise_any(where=str(data))
    return prepared


def encode_sample(prepared: PreparedSample, tokenizer: Tokenizer, settings: PromptSettings) -> list[int]:
    """The prompt's token ids, `prepared.prompt_tokens` of them, ending with the header of the model's answer."""
    return _encode(prepared.sample, prepared.tiles_per_image, tokenizer, settings, place=prepared.place)


def load_tiles(prepared: PreparedSample, settings: PromptSettings) -> list[Image.Image]:
    """Decode the sample's images and cut them: RGB tiles of tile_size x tile_size, in the prompt's order.

    Raises BadData if an image is no longer what it was when the sample was prepared.
    """
    tiles: list[Image.Image] = []
    for path, expected in zip(prepared.images, prepared.tiles_per_image, strict=True):
        cut = cut_tiles(
            open_image(path, place=prepared.place),
            max_tiles=tile_budget(settings.budget, settings.max_tiles, len(prepared.images)),
            tile_size=settings.geometry.tile_size,
            thumbnail=settings.geometry.thumbnail,
        )
        if len(cut) != expected:
            raise BadData(
                Fault(
                    where=f"{prepared.place}: {path}",
                    what=f"the image makes {len(cut)} tiles now and made {expected} a moment ago",
                    remedy="Do not change images while they are evaluated; start again.",
                )
            )
        tiles.extend(cut)
    return tiles


def _measure_images(paths: set[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, tuple[Fault, ...]]]:
    """Sizes in pixels of the images that can be read, and the faults of the others; each is read once."""
    sizes: dict[Path, tuple[int, int]] = {}
    broken: dict[Path, tuple[Fault, ...]] = {}
    for path in sorted(paths):
        try:
            sizes[path] = probe_image(path)
        except BadData as error:
            broken[path] = error.faults
    return sizes, broken


def _prepare(
    sample: EvalSample,
    place: str,
    images: Sequence[MeasuredImage],
    *,
    tokenizer: Tokenizer,
    settings: PromptSettings,
) -> PreparedSample:
    budget = tile_budget(settings.budget, settings.max_tiles, len(images))
    geometry = settings.geometry
    tiles = tuple(
        count_tiles(width, height, max_tiles=budget, tile_size=geometry.tile_size, thumbnail=geometry.thumbnail)
        for _, (width, height) in images
    )
    words = _encode(sample, [0] * len(images), tokenizer, settings, place=place)
    tokens = len(words) + sum(tiles) * geometry.tokens_per_tile
    if tokens > settings.most_tokens:
        raise BadData(
            Fault(
                where=place,
                what=f"the prompt has {tokens} tokens, and the model has room for {settings.most_tokens} "
                "beside the new ones",
                remedy="Lower the tiles or maxNewTokens.",
            )
        )
    return PreparedSample(
        sample=sample,
        place=place,
        images=tuple(path for path, _ in images),
        tiles_per_image=tiles,
        prompt_tokens=tokens,
    )


def _encode(
    sample: EvalSample, tiles_per_image: Sequence[int], tokenizer: Tokenizer, settings: PromptSettings, *, place: str
) -> list[int]:
    return encode_prompt(
        tokenizer,
        [Turn(role="user", text=sample.question)],
        tiles_per_image,
        tokens_per_tile=settings.geometry.tokens_per_tile,
        template=settings.template,
        place=place,
    )
