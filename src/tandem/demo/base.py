"""Training the demo's base model in full: it learns to read digits and to answer without the marker."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.demo.digits import PICTURE_SIZE
from tandem.errors import BadData, Fault
from tandem.model.images import open_image
from tandem.model.loading import load_base, load_tokenizer
from tandem.model.tiles import TileGeometry
from tandem.model.tiny import SMALL_CORPUS, make_tiny_model
from tandem.train.annotations import SampleRef, read_samples
from tandem.train.meta import read_meta
from tandem.train.samples import IGNORED, Example, ReadingRules, build_example

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Gradients = tuple[torch.Tensor | None, ...]
    """One for each weight; None for those that the model does not use."""


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """How the base comes about; the defaults read about 98 % of unseen digits within a minute on two cores."""

    text_size: int = 128
    vision_size: int = 64
    layers: int = 2
    std: float = 0.08
    """Deviation of the random weights that it starts from."""
    steps: int = 340
    shift: int = 4
    """Pixels by which each picture is moved at random, at most: the margins are empty."""
    batch: int = 32
    """Samples of one step, two at least: threads share them."""
    learning_rate: float = 2.5e-3
    """The highest; it rises over the first tenth of the steps and falls to nothing."""


def train_base(
    data_meta: Path,
    folder: Path,
    *,
    seed: int,
    corpus: Sequence[str] = (),
    recipe: BaseRecipe | None = None,
    report: Callable[[int, float], None] = lambda _step, _loss: None,
) -> float:
    """Make a tiny InternVL in `folder` and train all of its weights on the samples of a meta file.

    corpus is what its tokenizer learns words from, beside the samples' own texts. report gets each step and its
    loss. Returns the mean loss of the last ten steps. The same arguments give the same bytes on the same machine:
    each half of a batch is computed by one thread whatever OMP_NUM_THREADS says, and random draws depend on the seed
    alone.
    Raises BadData if samples do not fit, and what reading the meta file raises.
    """
    recipe = recipe or BaseRecipe()
    samples = read_samples(read_meta(data_meta))
    make_tiny_model(
        folder,
        seed=seed,
        text_size=recipe.text_size,
        vision_size=recipe.vision_size,
        layers=recipe.layers,
        tile_size=PICTURE_SIZE,
        std=recipe.std,
        corpus=[*SMALL_CORPUS, *corpus, *(turn.text for sample in samples for turn in sample.turns)],
        vocabulary=1024,
    )
    with _single_threaded():
        losses = _train(folder, samples, seed=seed, recipe=recipe, report=report)
    last = losses[-10:]
    return sum(last) / len(last)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """For so small a model the threads of one operation mainly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    folder: Path,
    samples: Sequence[SampleRef],
    *,
    seed: int,
    recipe: BaseRecipe,
    report: Callable[[int, float], None],
) -> list[float]:
    import torch

    from tandem.model.internvl import make_trainable

    base: Any = load_base(folder, precision="float32", device="cpu")
    native, model = type(base), make_trainable(base).train()
    read_example = _remember_examples(samples, folder, seed=seed)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    losses = []
    generators = [torch.Generator().manual_seed(seed), torch.Generator().manual_seed(~seed)]

    def differentiate(half: Sequence[Example], labels: int, generator: torch.Generator) -> tuple[float, Gradients]:
        torch.set_num_threads(1)  # each thread has a number of its own
        batch = _pad(half)
        batch["pixel_values"] = _shift(batch["pixel_values"], recipe.shift, generator)
        loss = model(**batch, normaliser=float(labels)).loss
        return float(loss.detach()), torch.autograd.grad(loss, weights, allow_unused=True)

    drawn = _draw_batches(len(samples), recipe.batch, recipe.steps, seed=seed)
    reading = ([read_example(index) for index in chosen] for chosen in drawn)
    examples = next(reading)
    with ThreadPoolExecutor(len(generators)) as threads:
        for step in range(1, recipe.steps + 1):
            labels = sum(len(example.labels) - example.labels.count(IGNORED) for example in examples)
            halves = (examples[::2], examples[1::2])
            results = threads.map(differentiate, halves, (labels, labels), generators)
            examples = next(reading, [])  # the next batch is read meanwhile
            found = list(results)
            for weight, *gradients in zip(weights, *(gradients for _, gradients in found), strict=True):
                weight.grad = None if gradients[0] is None else sum(gradients[1:], start=gradients[0])
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(sum(loss for loss, _ in found))
            report(step, losses[-1])
    base.__class__ = native  # names in the file follow from the class
    base.save_pretrained(folder)
    return losses


def _remember_examples(samples: Sequence[SampleRef], folder: Path, *, seed: int) -> Callable[[int], Example]:
    """Return what builds the example of an index on its first use and keeps it."""
    tokenizer = load_tokenizer(folder)
    rules = ReadingRules(max_tiles=2, max_length=256, geometry=TileGeometry(tile_size=PICTURE_SIZE))
    rng = random.Random(seed)  # noqa: S311

    pictures: dict[Path, Image.Image] = {}

    def open_once(path: Path, **options: Any) -> Image.Image:
        if path not in pictures:  # several questions are asked about each
            pictures[path] = open_image(path, **options)
        return pictures[path]

    @functools.cache
    def read_example(index: int) -> Example:
        example = build_example(samples[index], tokenizer, rules=rules, rng=rng, open_picture=open_once)
        if isinstance(example, Example):
            return example
        what = f"the sample has {example.length.tokens} tokens, and the demo's base takes {example.max_length}"
        raise BadData(Fault(where=example.place, what=what, remedy="Shorten its texts."))

    return read_example


def _draw_batches(samples: int, size: int, batches: int, *, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices, all samples once before any of them again."""
    rng = random.Random(seed)  # noqa: S311
    waiting: list[int] = []
    for _ in range(batches):
        while len(waiting) < size:
            waiting += rng.sample(range(samples), samples)
        yield waiting[:size]
        del waiting[:size]


def _shift(tiles: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Move each tile of [n, 3, side, side] by up to `most` pixels down and right, or up and left; edges wrap."""
    import torch

    offsets = torch.randint(-most, most + 1, (len(tiles), 2), generator=generator).tolist()
    return torch.stack([tile.roll(offset, dims=(1, 2)) for tile, offset in zip(tiles, offsets, strict=True)])


def _pad(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """One batch, padded on the right: ids, labels and mask [B, T], pixel_values [tiles, 3, side, side]."""
    import torch

    longest = max(len(example.input_ids) for example in examples)
    missing = [longest - len(example.input_ids) for example in examples]
    rows = list(zip(examples, missing, strict=True))
    return {
        "input_ids": torch.tensor([example.input_ids + [0] * gap for example, gap in rows]),
        "labels": torch.tensor([example.labels + [IGNORED] * gap for example, gap in rows]),
        "attention_mask": torch.tensor([[1] * len(example.input_ids) + [0] * gap for example, gap in rows]),
        "pixel_values": torch.cat([example.pixels for example in examples]),
    }
