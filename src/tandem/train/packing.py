"""Which samples make which optimizer step, and how one step's samples are laid out on the ranks: pure functions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

MicroBatch = tuple[int, ...]
"""Positions of the samples that go through the model together."""

Layout = tuple[tuple[MicroBatch, ...], ...]
"""The micro-batches of each rank in one optimizer step; packed ranks may have different numbers of them."""


def count_steps(samples: int, *, global_size: int, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps of a training: as given, or enough for `epochs` passes.

    Epochs follow each other without a gap. Where they do not end with a global batch, the last batch is filled with
    the first samples of the next pass, so that every batch has exactly global_size samples.
    """
    if steps is not None:
        return steps
    if epochs is None:
        raise ValueError("give epochs or steps")
    return max(1, math.ceil(round(epochs * samples / global_size, 9)))


@lru_cache(maxsize=2)
def shuffle_epoch(samples: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """All sample numbers in the order of one epoch: sorted by a hash, so that it is the same in every version."""

    def rank_of(sample: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{epoch}/{sample}".encode(), digest_size=16).digest()

    return tuple(sorted(range(samples), key=rank_of))


def place_samples(step: int, *, samples: int, global_size: int, seed: int) -> tuple[tuple[int, int], ...]:
    """(epoch, sample number) of each of the global_size samples of one optimizer step (from 0)."""
    places = []
    for position in range(step * global_size, (step + 1) * global_size):
        epoch, offset = divmod(position, samples)
        places.append((epoch, shuffle_epoch(samples, seed=seed, epoch=epoch)[offset]))
    return tuple(places)


def pack_step(lengths: Sequence[int], *, ranks: int, budget: int) -> Layout:
    """Lay out one global batch in micro-batches of at most `budget` tokens.

    Longest first, each sample goes to the rank with the fewest tokens, so that ranks end together; within a rank to
    the first micro-batch that has room. Every rank gets a sample. Raises ValueError for a sample over the budget or
    fewer samples than ranks.
    """
    if len(lengths) < ranks:
        raise ValueError(f"{len(lengths)} samples for {ranks} ranks")
    if max(lengths) > budget:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit in {budget}")
    longest_first = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for number, position in enumerate(longest_first):
        lightest = number if number < ranks else min(range(ranks), key=lambda rank: (loads[rank], rank))
        shares[lightest].append(position)
        loads[lightest] += lengths[position]
    return tuple(_fill_first_fit(share, lengths, budget) for share in shares)


def _fill_first_fit(positions: Sequence[int], lengths: Sequence[int], budget: int) -> tuple[MicroBatch, ...]:
    bins: list[list[int]] = []
    room: list[int] = []
    for position in positions:
        length = lengths[position]
        fitting = next((index for index, free in enumerate(room) if free >= length), None)
        if fitting is None:
            bins.append([position])
            room.append(budget - length)
        else:
            bins[fitting].append(position)
            room[fitting] -= length
    return tuple(tuple(positions) for positions in bins)


def deal_step(samples: int, *, ranks: int, per_device: int) -> Layout:
    """Lay out one global batch in padded micro-batches of exactly per_device samples, the same number on each rank.

    Raises ValueError unless samples is a multiple of ranks x per_device.
    """
    if samples % (ranks * per_device):
        raise ValueError(f"{samples} samples are not a multiple of {ranks} ranks x {per_device}")
    batches = [tuple(range(start, start + per_device)) for start in range(0, samples, per_device)]
    return tuple(tuple(batches[rank::ranks]) for rank in range(ranks))


def pack_in_order(lengths: Sequence[int], *, budget: int) -> tuple[MicroBatch, ...]:
    """Cut a sequence of samples into micro-batches of at most `budget` tokens; a longer sample stands alone."""
    batches: list[list[int]] = []
    room = 0
    for position, length in enumerate(lengths):
        if not batches or length > room:
            batches.append([])
            room = budget
        batches[-1].append(position)
        room -= length
    return tuple(tuple(positions) for positions in batches)
