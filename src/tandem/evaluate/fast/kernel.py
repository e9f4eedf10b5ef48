"""Triton kernels of one decoding step: attention to a paged cache, each sequence cut into parts that run side by side.

The parts' size is fixed, so a sequence's numbers do not depend on which others are generated with it.
`attention.attend_gathered` is the reference.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]

from tandem.evaluate.fast.cache import PAGE

PART = 512
"""Tokens of a part: small enough that long sequences fill the GPU, large enough that parts are few."""


def attend_paged_kernel(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """As `attention.attend_paged`; the head size must be a power of two of at least 16."""
    slots, heads, size = queries.shape
    key_heads = keys.shape[1]
    group = heads // key_heads
    parts = triton.cdiv(pages.shape[1] * PAGE, PART)
    sums = torch.empty((slots, heads, parts, size), dtype=torch.float32, device=queries.device)
    weights = torch.empty((slots, heads, parts), dtype=torch.float32, device=queries.device)
    found = torch.empty_like(queries, memory_format=torch.contiguous_format)
    queries = queries.contiguous()
    _attend_part[(slots, key_heads, parts)](
        queries,
        keys,
        values,
        pages,
        lengths,
        sums,
        weights,
        size**-0.5 * 1.4426950408889634,  # the kernel's exponentials are of base 2
        pages.shape[1],
        parts,
        KEY_HEADS=key_heads,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        SIZE=size,
        TOKENS=PAGE,
        PER_PART=PART,
        num_warps=4,
        num_stages=3,
    )
    _join_parts[(slots, heads)](
        sums, weights, lengths, found, parts, HEADS=heads, SIZE=size, PER_PART=PART, num_warps=2
    )
    return found


@triton.jit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _attend_part(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    queries,
    keys,
    values,
    pages,
    lengths,
    sums,
    weights,
    scale,
    most_pages,
    parts,
    KEY_HEADS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    TOKENS: tl.constexpr,  # noqa: N803
    PER_PART: tl.constexpr,  # noqa: N803
):
    slot = tl.program_id(0)
    key_head = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(lengths + slot)
    first = part * PER_PART
    if first < length:
        rows = tl.arange(0, ROWS)
        columns = tl.arange(0, SIZE)
        offsets = tl.arange(0, TOKENS)
        heads = slot * KEY_HEADS * GROUP + key_head * GROUP + rows
        query = tl.load(queries + heads[:, None] * SIZE + columns[None, :], mask=rows[:, None] < GROUP, other=0.0)
        highest = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        found = tl.zeros([ROWS, SIZE], tl.float32)
        for start in range(first, tl.minimum(first + PER_PART, length), TOKENS):
            page = tl.load(pages + slot * most_pages + start // TOKENS).to(tl.int64)
            places = ((page * TOKENS + offsets) * KEY_HEADS + key_head) * SIZE
            key = tl.load(keys + places[:, None] + columns[None, :])
            value = tl.load(values + places[:, None] + columns[None, :])
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            scores = tl.where((start + offsets)[None, :] < length, scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            shrink = tl.exp2(highest - higher)
            chances = tl.exp2(scores - higher[:, None])
            total = total * shrink + tl.sum(chances, 1)
            found = found * shrink[:, None]
            found += tl.dot(chances.to(value.dtype), value, input_precision="ieee")
            highest = higher
        places = heads * parts + part
        inside = rows < GROUP
        tl.store(sums + places[:, None] * SIZE + columns[None, :], found / total[:, None], mask=inside[:, None])
        tl.store(weights + places, highest + tl.log2(total), mask=inside)


@triton.jit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _join_parts(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    sums,
    weights,
    lengths,
    found,
    parts,
    HEADS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    PER_PART: tl.constexpr,  # noqa: N803
):
    slot = tl.program_id(0)
    head = slot * HEADS + tl.program_id(1)
    columns = tl.arange(0, SIZE)
    length = tl.load(lengths + slot)
    highest = float("-inf")
    total = 0.0
    joined = tl.zeros([SIZE], tl.float32)
    for part in range(0, tl.cdiv(length, PER_PART)):
        weight = tl.load(weights + head * parts + part)
        higher = tl.maximum(highest, weight)
        shrink = tl.exp2(highest - higher)
        share = tl.exp2(weight - higher)
        joined = joined * shrink + share * tl.load(sums + (head * parts + part) * SIZE + columns)
        total = total * shrink + share
        highest = higher
    joined = joined / tl.where(length > 0, total, 1.0)
    tl.store(found + head * SIZE + columns, joined.to(found.dtype.element_ty))
