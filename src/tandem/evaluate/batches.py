"""Which samples are generated together: planned once, from all samples of the evaluation, whoever generates them.

The plan depends on nothing but the lengths and the budget. So a restart generates the same whole batches again, and
the texts do not depend on the number of shards, not even in bfloat16, where a batch's shape can change them. Packed
generation joins a shard's batches into groups (`packed.py`): its bfloat16 texts do not depend on restarts, but can on
the number of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples that are generated together."""

    index: int
    """Place in the plan."""
    samples: tuple[int, ...]
    """Indexes of the samples in the evaluation; the longest prompt first."""
    prompt_tokens: int
    """Length (tokens) that all prompts are padded to."""


def plan_batches(lengths: Sequence[int], *, max_new_tokens: int, batch_tokens: int) -> tuple[Batch, ...]:
    """Share out all samples, by their prompts' lengths in tokens.

    A batch takes (padded prompt + max_new_tokens) x samples <= batch_tokens; a sample that exceeds this alone gets a
    batch of its own. Samples go from the longest to the shortest, so that little is padded and the batch that needs
    the most memory comes first; equally long ones keep the evaluation's order.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[Batch] = []
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        size = max(1, batch_tokens // (longest + max_new_tokens))
        batches.append(
            Batch(index=len(batches), samples=tuple(order[start : start + size]), prompt_tokens=longest),
        )
        start += size
    return tuple(batches)


def select_shard(batches: Sequence[Batch], *, shard: int, shards: int) -> tuple[Batch, ...]:
    """The batches of one shard (0-based): every `shards`-th, so that long and short ones are spread evenly.

    A shard can be empty where there are fewer batches than shards. Raises ValueError for a shard out of range.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"there is no shard {shard} of {shards}")
    return tuple(batches[shard::shards])
