"""How large micro-batches may be, and whether activations are computed twice: decided by trying, pure but for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from tandem.errors import Fault, OutOfMemory
from tandem.spec import TrainSpec


class Trial(BaseModel):
    """One size of micro-batch that was tried."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tokens: int
    checkpointed: bool
    """With gradient checkpointing."""
    peak_bytes: int | None
    """The most that was held at one time, weights included; None if it did not fit."""


class Memory(BaseModel):
    """What a training's micro-batches are held to."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    packed_tokens: int | None = Field(ge=1)
    """Most tokens of a packed micro-batch; None: they are padded."""
    gradient_checkpointing: bool
    tried: tuple[Trial, ...] = ()
    """In their order, on the rank that had least room; empty where nothing had to be found."""


def take_as_written(train: TrainSpec) -> Memory:
    """What the Run file says, without trying: never checkpointed where it does not say."""
    return Memory(packed_tokens=train.batch.packed_tokens, gradient_checkpointing=train.gradient_checkpointing is True)


def apply_memory(train: TrainSpec, memory: Memory) -> TrainSpec:
    """The settings with what was found in the place of what was asked for."""
    batch = train.batch.model_copy(update={"packed_tokens": memory.packed_tokens})
    return train.model_copy(update={"batch": batch, "gradient_checkpointing": memory.gradient_checkpointing})


def is_open(train: TrainSpec) -> bool:
    """Whether the Run file leaves something to be found."""
    return train.gradient_checkpointing is None or (train.batch.packed_tokens is not None and train.batch.fit_memory)


def list_sizes(train: TrainSpec, *, longest: int) -> tuple[int, ...]:
    """Tokens of the micro-batches to try, the largest first; longest is that of a sample (tokens).

    Packed: as asked for, then halves of it, down to the longest sample alone. Padded: as many of the longest samples
    as a micro-batch has.
    """
    asked = train.batch.packed_tokens
    if asked is None:
        return (train.batch.per_device * longest,)
    sizes = [asked]
    while train.batch.fit_memory and sizes[-1] > longest:
        sizes.append(max(longest, sizes[-1] // 2))
    return tuple(sizes)


def find_fit(
    measure: Callable[[int, bool], int | None], *, sizes: Sequence[int], checkpointing: bool | None, room: int
) -> tuple[Trial, ...]:
    """Try sizes (tokens) until one fits into the room (bytes); the last trial is the answer, if that fitted.

    measure takes tokens and whether to checkpoint, and says the peak in bytes, or None if memory ran out. With
    checkpointing None all sizes are tried without it first.
    """
    tried: list[Trial] = []
    for checkpointed in (False, True) if checkpointing is None else (checkpointing,):
        for tokens in sizes:
            peak = measure(tokens, checkpointed)
            fits = peak is not None and peak <= room
            tried.append(Trial(tokens=tokens, checkpointed=checkpointed, peak_bytes=peak if fits else None))
            if fits:
                return tuple(tried)
    return tuple(tried)


def agree(train: TrainSpec, tried: Sequence[tuple[Trial, ...]]) -> Memory:
    """What all ranks can hold, from what each has tried.

    Raises OutOfMemory if one of them could hold nothing.
    """
    for rank, trials in enumerate(tried):
        if trials[-1].peak_bytes is None:
            raise _does_not_fit(train, trials[-1], rank)
    tightest = min(tried, key=lambda trials: (not trials[-1].checkpointed, trials[-1].tokens))
    return Memory(
        packed_tokens=None if train.batch.packed_tokens is None else min(trials[-1].tokens for trials in tried),
        gradient_checkpointing=tightest[-1].checkpointed,
        tried=tightest,
    )


def _does_not_fit(train: TrainSpec, smallest: Trial, rank: int) -> OutOfMemory:
    batch = train.batch
    if batch.packed_tokens is None:
        what, remedy = f"a micro-batch of {batch.per_device} longest samples", "Lower batch.perDevice, "
    elif batch.fit_memory:
        what, remedy = "the longest sample alone", "Lower "
    else:
        what, remedy = "a micro-batch of batch.packedTokens", "Remove batch.fitMemory: false, lower "
    if not smallest.checkpointed:
        remedy = "Remove gradientCheckpointing: false. " + remedy
    return OutOfMemory(
        Fault(
            where=f"train: rank {rank}",
            what=f"{what} ({smallest.tokens} tokens) does not fit into the GPU's memory"
            + (", not even with gradient checkpointing" if smallest.checkpointed else ""),
            remedy=f"{remedy}maxLength or tiles.max, or take a GPU with more free memory.",
        )
    )
