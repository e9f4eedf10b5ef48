# ruff: noqa: PLR0917, PLR0912, PLR0915, N803, SIM108 - the language of kernels: constants in capitals, no ternaries
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped"
"""Triton kernels for the small matrices of LoRA on the GPU; lora_fused.py says what each of them computes.

They are bound by memory, so each reads its large tensors once: dropout masks come from hashes (dropout_bits.py),
the adapter's output is added where the tensor is read anyway, and gradients of the small matrices are summed on the
way, in float32 and in a fixed order. Importing this module imports triton.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from tandem.model.dropout_bits import drop_below

SMALLEST_DOT = 16
"""The matrix units take no smaller inner size: lower ranks are filled up."""

PROGRAMS = 1056
"""Programs that a reduction over rows is split into, at least about: 8 for each of an H200's 132 processors."""


class Tile(NamedTuple):
    """How a kernel cuts its work."""

    rows: int
    columns: int
    warps: int
    stages: int

    def options(self, rank: int) -> dict[str, Any]:
        """For the launch."""
        return {
            "BLOCK_ROWS": self.rows,
            "BLOCK_COLUMNS": self.columns,
            "BLOCK_RANK": max(SMALLEST_DOT, triton.next_power_of_2(rank)),
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


TILES = {
    "low_rank_in": Tile(rows=64, columns=64, warps=4, stages=4),
    "low_rank_back": Tile(rows=32, columns=64, warps=4, stages=2),
    "swiglu_in": Tile(rows=64, columns=64, warps=4, stages=3),
    "swiglu_back": Tile(rows=16, columns=64, warps=4, stages=3),
}


@triton.jit
def _dot(left, right):
    # float32 stays float32: the units' own short form of it would be less exact than the plain recipe.
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _hash(counter, seed):
    bits = counter ^ seed.to(tl.uint32)
    bits = bits ^ (bits >> 16)
    bits = bits * 0x7FEB352D
    bits = bits ^ (seed >> 32).to(tl.uint32)
    bits = bits ^ (bits >> 15)
    bits = bits * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit
def _low_rank_in(
    x_ptr, a_ptr, seed_ptr, h_ptr, rows, stride_x,
    COLUMNS: tl.constexpr, RANK: tl.constexpr, GROUPS: tl.constexpr, DROP: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rank = tl.arange(0, BLOCK_RANK)
    row_in = row < rows
    rank_in = rank < RANK
    acc0 = tl.zeros((BLOCK_ROWS, BLOCK_RANK), tl.float32)
    acc1 = tl.zeros((BLOCK_ROWS, BLOCK_RANK), tl.float32)
    acc2 = tl.zeros((BLOCK_ROWS, BLOCK_RANK), tl.float32)
    if DROP > 0:
        seed0 = tl.load(seed_ptr)
        if GROUPS > 2:
            seed1 = tl.load(seed_ptr + 1)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        column_in = column < COLUMNS
        inside = row_in[:, None] & column_in[None, :]
        x = tl.load(x_ptr + row[:, None].to(tl.int64) * stride_x + column[None, :], mask=inside, other=0.0)
        weights = a_ptr + rank[None, :] * COLUMNS + column[:, None]
        weight_in = column_in[:, None] & rank_in[None, :]
        if DROP > 0:
            counter = row[:, None].to(tl.uint32) * COLUMNS + column[None, :].to(tl.uint32)
            bits = _hash(counter, seed0)
            x0 = tl.where((bits & 0xFFFF) >= DROP, x, 0.0)
        else:
            x0 = x
        acc0 += _dot(x0, tl.load(weights, mask=weight_in, other=0.0))
        if GROUPS > 1:
            if DROP > 0:
                x1 = tl.where((bits >> 16) >= DROP, x, 0.0)
            else:
                x1 = x
            acc1 += _dot(x1, tl.load(weights + RANK * COLUMNS, mask=weight_in, other=0.0))
        if GROUPS > 2:
            if DROP > 0:
                x2 = tl.where((_hash(counter, seed1) & 0xFFFF) >= DROP, x, 0.0)
            else:
                x2 = x
            acc2 += _dot(x2, tl.load(weights + 2 * RANK * COLUMNS, mask=weight_in, other=0.0))
    out = h_ptr + row[:, None].to(tl.int64) * (GROUPS * RANK) + rank[None, :]
    out_in = row_in[:, None] & rank_in[None, :]
    dtype = h_ptr.dtype.element_ty
    tl.store(out, (acc0 / KEPT).to(dtype), mask=out_in)
    if GROUPS > 1:
        tl.store(out + RANK, (acc1 / KEPT).to(dtype), mask=out_in)
    if GROUPS > 2:
        tl.store(out + 2 * RANK, (acc2 / KEPT).to(dtype), mask=out_in)


@triton.jit
def _low_rank_back(
    x_ptr, dx_ptr, dh_ptr, a_ptr, seed_ptr, da_ptr, rows, rows_each, stride_x,
    COLUMNS: tl.constexpr, RANK: tl.constexpr, GROUPS: tl.constexpr, DROP: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    rank = tl.arange(0, BLOCK_RANK)
    column_in = column < COLUMNS
    rank_in = rank < RANK
    weights = a_ptr + rank[:, None] * COLUMNS + column[None, :]
    weight_in = rank_in[:, None] & column_in[None, :]
    a0 = tl.load(weights, mask=weight_in, other=0.0)
    da0 = tl.zeros((BLOCK_RANK, BLOCK_COLUMNS), tl.float32)
    if GROUPS > 1:
        a1 = tl.load(weights + RANK * COLUMNS, mask=weight_in, other=0.0)
        da1 = tl.zeros((BLOCK_RANK, BLOCK_COLUMNS), tl.float32)
    if GROUPS > 2:
        a2 = tl.load(weights + 2 * RANK * COLUMNS, mask=weight_in, other=0.0)
        da2 = tl.zeros((BLOCK_RANK, BLOCK_COLUMNS), tl.float32)
    if DROP > 0:
        seed0 = tl.load(seed_ptr)
        if GROUPS > 2:
            seed1 = tl.load(seed_ptr + 1)
    first = tl.program_id(1) * rows_each
    for start in range(first, min(first + rows_each, rows), BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        row_in = row < rows
        inside = row_in[:, None] & column_in[None, :]
        x = tl.load(x_ptr + row[:, None].to(tl.int64) * stride_x + column[None, :], mask=inside, other=0.0)
        place = row[:, None].to(tl.int64) * COLUMNS + column[None, :]
        dx = tl.load(dx_ptr + place, mask=inside, other=0.0).to(tl.float32)
        hidden = dh_ptr + row[:, None].to(tl.int64) * (GROUPS * RANK) + rank[None, :]
        hidden_in = row_in[:, None] & rank_in[None, :]
        if DROP > 0:
            counter = row[:, None].to(tl.uint32) * COLUMNS + column[None, :].to(tl.uint32)
            bits = _hash(counter, seed0)
        dh = tl.load(hidden, mask=hidden_in, other=0.0)
        back = _dot(dh, a0) / KEPT
        if DROP > 0:
            keep = (bits & 0xFFFF) >= DROP
            dx += tl.where(keep, back, 0.0)
            da0 += _dot(tl.trans(dh), tl.where(keep, x, 0.0))
        else:
            dx += back
            da0 += _dot(tl.trans(dh), x)
        if GROUPS > 1:
            dh = tl.load(hidden + RANK, mask=hidden_in, other=0.0)
            back = _dot(dh, a1) / KEPT
            if DROP > 0:
                keep = (bits >> 16) >= DROP
                dx += tl.where(keep, back, 0.0)
                da1 += _dot(tl.trans(dh), tl.where(keep, x, 0.0))
            else:
                dx += back
                da1 += _dot(tl.trans(dh), x)
        if GROUPS > 2:
            dh = tl.load(hidden + 2 * RANK, mask=hidden_in, other=0.0)
            back = _dot(dh, a2) / KEPT
            if DROP > 0:
                keep = (_hash(counter, seed1) & 0xFFFF) >= DROP
                dx += tl.where(keep, back, 0.0)
                da2 += _dot(tl.trans(dh), tl.where(keep, x, 0.0))
            else:
                dx += back
                da2 += _dot(tl.trans(dh), x)
        tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    out = da_ptr + (tl.program_id(1) * GROUPS * RANK + rank[:, None]) * COLUMNS + column[None, :]
    tl.store(out, da0 / KEPT, mask=weight_in)
    if GROUPS > 1:
        tl.store(out + RANK * COLUMNS, da1 / KEPT, mask=weight_in)
    if GROUPS > 2:
        tl.store(out + 2 * RANK * COLUMNS, da2 / KEPT, mask=weight_in)


@triton.jit
def _swiglu_in(
    gate_up_ptr, a_ptr, seed_ptr, act_ptr, out_ptr, rows, columns_each,
    COLUMNS: tl.constexpr, RANK: tl.constexpr, DROP: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rank = tl.arange(0, BLOCK_RANK)
    row_in = row < rows
    rank_in = rank < RANK
    acc = tl.zeros((BLOCK_ROWS, BLOCK_RANK), tl.float32)
    if DROP > 0:
        seed = tl.load(seed_ptr)
    first = tl.program_id(1) * columns_each
    for start in range(first, min(first + columns_each, COLUMNS), BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        column_in = column < COLUMNS
        inside = row_in[:, None] & column_in[None, :]
        both = gate_up_ptr + row[:, None].to(tl.int64) * (2 * COLUMNS) + column[None, :]
        gate = tl.load(both, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(both + COLUMNS, mask=inside, other=0.0).to(tl.float32)
        act = (gate * tl.sigmoid(gate) * up).to(act_ptr.dtype.element_ty)
        place = row[:, None].to(tl.int64) * COLUMNS + column[None, :]
        tl.store(act_ptr + place, act, mask=inside)
        if DROP > 0:
            counter = row[:, None].to(tl.uint32) * COLUMNS + column[None, :].to(tl.uint32)
            act = tl.where((_hash(counter, seed) & 0xFFFF) >= DROP, act, 0.0)
        weights = a_ptr + rank[None, :] * COLUMNS + column[:, None]
        acc += _dot(act, tl.load(weights, mask=column_in[:, None] & rank_in[None, :], other=0.0))
    out = out_ptr + (tl.program_id(1).to(tl.int64) * rows + row[:, None]) * RANK + rank[None, :]
    tl.store(out, acc / KEPT, mask=row_in[:, None] & rank_in[None, :])


@triton.jit
def _swiglu_back(
    dact_ptr, gate_up_ptr, dh_ptr, a_ptr, seed_ptr, dgate_up_ptr, da_ptr, rows, rows_each,
    COLUMNS: tl.constexpr, RANK: tl.constexpr, DROP: tl.constexpr, KEPT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_RANK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    rank = tl.arange(0, BLOCK_RANK)
    column_in = column < COLUMNS
    rank_in = rank < RANK
    weight_in = rank_in[:, None] & column_in[None, :]
    a = tl.load(a_ptr + rank[:, None] * COLUMNS + column[None, :], mask=weight_in, other=0.0)
    da = tl.zeros((BLOCK_RANK, BLOCK_COLUMNS), tl.float32)
    if DROP > 0:
        seed = tl.load(seed_ptr)
    first = tl.program_id(1) * rows_each
    for start in range(first, min(first + rows_each, rows), BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        row_in = row < rows
        inside = row_in[:, None] & column_in[None, :]
        both = row[:, None].to(tl.int64) * (2 * COLUMNS) + column[None, :]
        gate = tl.load(gate_up_ptr + both, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up_ptr + both + COLUMNS, mask=inside, other=0.0).to(tl.float32)
        dact = tl.load(dact_ptr + row[:, None].to(tl.int64) * COLUMNS + column[None, :], mask=inside, other=0.0)
        hidden = dh_ptr + row[:, None].to(tl.int64) * RANK + rank[None, :]
        dh = tl.load(hidden, mask=row_in[:, None] & rank_in[None, :], other=0.0)
        back = _dot(dh, a) / KEPT
        chance = tl.sigmoid(gate)
        silu = gate * chance
        act = (silu * up).to(dact_ptr.dtype.element_ty)
        if DROP > 0:
            counter = row[:, None].to(tl.uint32) * COLUMNS + column[None, :].to(tl.uint32)
            keep = (_hash(counter, seed) & 0xFFFF) >= DROP
            back = tl.where(keep, back, 0.0)
            act = tl.where(keep, act, 0.0)
        slope = dact.to(tl.float32) + back
        dgate = slope * up * (chance + silu * (1.0 - chance))
        tl.store(dgate_up_ptr + both, dgate.to(dact_ptr.dtype.element_ty), mask=inside)
        tl.store(dgate_up_ptr + both + COLUMNS, (slope * silu).to(dact_ptr.dtype.element_ty), mask=inside)
        da += _dot(tl.trans(dh), act)
    part = tl.program_id(1) * RANK + rank[:, None]
    tl.store(da_ptr + part * COLUMNS + column[None, :], da / KEPT, mask=weight_in)


@triton.jit
def _cross_entropy(
    logits_ptr, target_ptr, loss_ptr, stride,
    COLUMNS: tl.constexpr, FILLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits = logits_ptr + row * stride
    target = tl.load(target_ptr + row)
    wanted = tl.load(logits + target).to(tl.float32)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, COLUMNS, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(logits + column, mask=column < COLUMNS, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, value)
        # A lane may have seen nothing but what lies behind the last column.
        known = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(most - known) + tl.exp(value - known)
        most = higher
    highest = tl.max(most, 0)
    total_all = tl.sum(total * tl.exp(most - highest), 0)
    tl.store(loss_ptr + row, tl.log(total_all) + highest - wanted)
    tl.debug_barrier()
    for start in range(0, FILLED, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(logits + column, mask=column < COLUMNS, other=float("-inf")).to(tl.float32)
        slope = tl.exp(value - highest) / total_all
        slope = tl.where(column == target, slope - 1.0, slope)
        tl.store(logits + column, slope.to(logits_ptr.dtype.element_ty), mask=column < FILLED)


def _split(length: int, blocks: int, step: int) -> tuple[int, int]:
    """(parts, length of each) so that blocks x parts programs fill the GPU; each is a multiple of step."""
    parts = max(1, min(triton.cdiv(length, step), triton.cdiv(PROGRAMS, blocks)))
    each = triton.cdiv(triton.cdiv(length, parts), step) * step
    return triton.cdiv(length, each), each


def _dropping(p: float) -> dict[str, Any]:
    return {"DROP": drop_below(p), "KEPT": 1.0 - p}


def low_rank_in(x: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, groups: int, p: float) -> torch.Tensor:
    """See lora_fused.low_rank_in."""
    rows, columns = x.shape
    rank = a.shape[0] // groups
    h = torch.empty((rows, groups * rank), dtype=x.dtype, device=x.device)
    tile = TILES["low_rank_in"]
    _low_rank_in[(triton.cdiv(rows, tile.rows),)](
        x, a, seeds, h, rows, x.stride(0), columns, rank, groups, **_dropping(p), **tile.options(rank)
    )
    return h


def low_rank_back(
    x: torch.Tensor, dx: torch.Tensor, dh: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, groups: int, p: float
) -> torch.Tensor:
    """See lora_fused.low_rank_back; dx must be contiguous."""
    rows, columns = x.shape
    rank = a.shape[0] // groups
    tile = TILES["low_rank_back"]
    blocks = triton.cdiv(columns, tile.columns)
    parts, each = _split(rows, blocks, tile.rows)
    da = torch.empty((parts, groups * rank, columns), dtype=torch.float32, device=x.device)
    _low_rank_back[(blocks, parts)](
        x, dx, dh, a, seeds, da, rows, each, x.stride(0), columns, rank, groups, **_dropping(p), **tile.options(rank)
    )
    return da.sum(0)


def swiglu_in(
    gate_up: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See lora_fused.swiglu_in."""
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    rank = a.shape[0]
    tile = TILES["swiglu_in"]
    blocks = triton.cdiv(rows, tile.rows)
    parts, each = _split(columns, blocks, tile.columns)
    act = torch.empty((rows, columns), dtype=gate_up.dtype, device=gate_up.device)
    out = torch.empty((parts, rows, rank), dtype=torch.float32, device=gate_up.device)
    _swiglu_in[(blocks, parts)](
        gate_up, a, seeds, act, out, rows, each, columns, rank, **_dropping(p), **tile.options(rank)
    )
    return act, out.sum(0).to(gate_up.dtype)


def swiglu_back(
    dact: torch.Tensor, gate_up: torch.Tensor, dh: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See lora_fused.swiglu_back."""
    rows, columns = dact.shape
    rank = a.shape[0]
    tile = TILES["swiglu_back"]
    blocks = triton.cdiv(columns, tile.columns)
    parts, each = _split(rows, blocks, tile.rows)
    dgate_up = torch.empty_like(gate_up)
    da = torch.empty((parts, rank, columns), dtype=torch.float32, device=dact.device)
    _swiglu_back[(blocks, parts)](
        dact, gate_up, dh, a, seeds, dgate_up, da, rows, each, columns, rank, **_dropping(p), **tile.options(rank)
    )
    return dgate_up, da.sum(0)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Losses in float32 [rows]; logits [rows, classes and filling] become their gradients, the filling zero."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _cross_entropy[(logits.shape[0],)](
        logits, targets, losses, logits.stride(0), classes, logits.shape[1], BLOCK=4096, num_warps=8
    )
    return losses
