"""Micro-batches tried on the GPU before training: as large as the corpus can make them, of nothing but zeros.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tandem.errors import Fault, OutOfMemory
from tandem.model.device_memory import measure_room, release_memory
from tandem.model.speed import set_checkpointing
from tandem.model.tiles import TileGeometry
from tandem.spec import TrainSpec
from tandem.train.adapter import trainable_weights
from tandem.train.collate import pack, pad
from tandem.train.fitting import Memory, agree, find_fit, is_open, list_sizes, take_as_written
from tandem.train.memory import count_training_bytes
from tandem.train.ranks import Ranks
from tandem.train.samples import IGNORED, Example, Length
from tandem.train.steps import Loading
from tandem.train.trainer import to_device

logger = logging.getLogger("tandem.train")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What invented samples look like: as long as the longest, with as large a share of images and labels as any."""

    longest: int
    """Tokens."""
    most_images: Length
    """The sample with the largest share of image tokens."""
    most_labels: Length
    geometry: TileGeometry
    image_token: int

    def invent(self, tokens: int) -> list[Example]:
        """Samples of the longest length, and one of the rest, that have so many tokens in all."""
        whole, rest = divmod(tokens, self.longest)
        return [self._invent_one(length) for length in [self.longest] * whole + [rest] * (rest > 0)]

    def _invent_one(self, tokens: int) -> Example:
        each = self.geometry.tokens_per_tile
        tiles = tokens * self.most_images.image_tokens // self.most_images.tokens // each
        labelled = -(-tokens * self.most_labels.labelled // self.most_labels.tokens)
        side = self.geometry.tile_size
        return Example(
            input_ids=[self.image_token] * (tiles * each) + [0] * (tokens - tiles * each),
            labels=[IGNORED] * (tokens - labelled) + [0] * labelled,
            pixels=torch.zeros((tiles, 3, side, side)),
            tiles_per_image=(tiles,) if tiles else (),
            tokens_cut=0,
        )


def describe_shape(lengths: Sequence[Length], *, geometry: TileGeometry, image_token: int) -> Shape:
    """The shape of the largest micro-batches that samples of these lengths can make."""
    return Shape(
        longest=max(length.tokens for length in lengths),
        most_images=max(lengths, key=lambda length: length.image_tokens / length.tokens),
        most_labels=max(lengths, key=lambda length: length.labelled / length.tokens),
        geometry=geometry,
        image_token=image_token,
    )


class Gauge(Protocol):
    """Tells the most bytes that a device held at one time."""

    def reset(self) -> None:
        """Forget what was held."""

    def read(self) -> int:
        """The most that was held since then."""


@dataclass(frozen=True, kw_only=True)
class CudaGauge:
    """torch's own count on one GPU."""

    device: torch.device

    def reset(self) -> None:
        """Forget what was held."""
        release_memory()
        torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> int:
        """The most that was held since then."""
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def measure_peak(run: Callable[[], None], gauge: Gauge) -> int | None:
    """The most bytes that were held while running; None if memory ran out."""
    gauge.reset()
    try:
        run()
        return gauge.read()
    except torch.OutOfMemoryError:
        return None


def pass_through(model: Any, examples: Sequence[Example], *, packed: bool) -> None:
    """Forward and backward of one micro-batch; leaves weights as they are, and no gradient."""
    model.train()
    batch = (pack if packed else pad)(examples)
    try:
        model(**to_device(batch, next(model.parameters()).device), normaliser=1.0).loss.backward()
    finally:
        model.zero_grad(set_to_none=True)


def find_memory(
    model: Any, train: TrainSpec, shape: Shape, ranks: Ranks, *, gauge: Gauge, room: int, on_trial: Callable[[], None]
) -> Memory:
    """What this model's training fits into on all ranks, which must all call it; room is this rank's (bytes).

    model is a PeftModel that is made fast, before there is an optimizer. on_trial is called after each trial. Raises
    OutOfMemory if nothing fits on one of the ranks.
    """
    base = model.get_base_model()
    packed = train.batch.packed_tokens is not None

    def measure(tokens: int, checkpointed: bool) -> int | None:
        set_checkpointing(base, on=checkpointed)
        peak = measure_peak(lambda: pass_through(model, shape.invent(tokens), packed=packed), gauge)
        on_trial()
        return peak

    tried = find_fit(
        measure,
        sizes=list_sizes(train, longest=shape.longest),
        checkpointing=train.gradient_checkpointing,
        room=room - count_training_bytes(sum(weight.numel() for weight in trainable_weights(model)), train),
    )
    gauge.reset()
    memory = agree(train, ranks.gather(tried))
    if ranks.leads_all:
        logger.info(
            "micro-batches: %s, %s gradient checkpointing",
            "padded" if memory.packed_tokens is None else f"at most {memory.packed_tokens} tokens",
            "with" if memory.gradient_checkpointing else "without",
        )
    return memory


def settle_memory(
    model: Any,
    train: TrainSpec,
    loading: Loading,
    ranks: Ranks,
    *,
    found: Memory | None,
    on_trial: Callable[[], None],
) -> Memory:
    """What micro-batches are held to, and the model set to it; all ranks must call it.

    It is found once for all attempts: found is what the checkpoint says that this one goes on from. Without a GPU, and
    where the Run file leaves nothing open, nothing is tried.
    """
    base, device = model.get_base_model(), next(model.parameters()).device
    if found is None and device.type == "cuda" and is_open(train):
        shape = describe_shape(
            loading.corpus.lengths, geometry=loading.rules.geometry, image_token=base.config.image_token_id
        )
        room, gauge = measure_room(device), CudaGauge(device=device)
        found = find_memory(model, train, shape, ranks, gauge=gauge, room=room, on_trial=on_trial)
    memory = found or take_as_written(train)
    set_checkpointing(base, on=memory.gradient_checkpointing)
    return memory


@contextmanager
def telling_smaller_device(memory: Memory, source: str | None) -> Iterator[None]:
    """Say of memory that runs out that sizes found for another GPU are the cause; source is the checkpoint that they
    come from, None if they were found here.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        if source is None or not memory.tried:
            raise
        size = "padded" if memory.packed_tokens is None else f"of at most {memory.packed_tokens} tokens"
        way = "with" if memory.gradient_checkpointing else "without"
        raise OutOfMemory(
            Fault(
                where=source,
                what=f"micro-batches {size}, {way} gradient checkpointing, do not fit into this GPU's memory; they "
                "were found on the GPU that the training began on, and to go on from there they stay the same",
                remedy="Use a GPU with as much free memory as that one, or start anew with --again.",
            )
        ) from error
