# ruff: noqa: PLR0917, ARG001 - an operator and a kernel take as many tensors as they take, by place
"""Linear layers with LoRA as two operators, `tandem::lora_linear` and `tandem::lora_mlp`, that train fast.

They compute what peft's layers compute, y = x W^T + bias + scale * B A dropout(x), with the base weights frozen:
layers that share an input share its reading, masks are computed again instead of kept, and the gated MLP keeps only
its two projections. Each projection drops its own positions, as in peft; which ones, a hash of seed and position
decides (dropout_bits.py). Being operators, they are opaque to torch.compile.

On a GPU the parts around the large products are Triton kernels (lora_kernels.py), elsewhere plain torch. Importing
this module imports torch and registers the operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from tandem.model.dropout_bits import keep_mask


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    seeds: torch.Tensor,
    sizes: Sequence[int],
    *,
    p: float,
    scale: float,
) -> torch.Tensor:
    """Linear layers that share the input x [T, in], side by side: [T, sum of sizes].

    weight [sum of sizes, in] and bias are frozen. a is [layers * r, in], b [sum of sizes, r], both learn and may have
    another number format than x. seeds are as many as hashes_for(layers); p is the share that is dropped.
    """
    out: torch.Tensor = _lora_linear(x, weight, bias, a, b, seeds, list(sizes), p, scale)[0]
    return out


def lora_mlp(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    a_gate_up: torch.Tensor,
    b_gate_up: torch.Tensor,
    a_down: torch.Tensor,
    b_down: torch.Tensor,
    seeds: torch.Tensor,
    *,
    p: float,
    scale: float,
) -> torch.Tensor:
    """down(silu(gate(x)) * up(x)) with an adapter on each of the three: [T, out] from x [T, in].

    gate_up [2 * inner, in + 2 * r] and down [out, inner] are frozen; a_gate_up is [2 * r, in], b_gate_up
    [2 * inner, r]. Two seeds, the second for what goes into down. The last columns of gate_up hold scale * b_gate_up
    as place_low_rank writes it: one product then gives the layers and their adapters.
    """
    out: torch.Tensor = _lora_mlp(x, gate_up, down, a_gate_up, b_gate_up, a_down, b_down, seeds, p, scale)[0]
    return out


def place_low_rank(gate_up: torch.Tensor, b_gate: torch.Tensor, b_up: torch.Tensor, scale: float) -> None:
    """Write scale * b into the last columns of gate_up, gate's before up's, where lora_mlp multiplies with them."""
    inner, rank = b_gate.shape
    room = gate_up[:, gate_up.shape[1] - 2 * rank :]
    room[:inner, :rank] = b_gate * scale
    room[inner:, rank:] = b_up * scale


@torch.library.custom_op("tandem::lora_linear", mutates_args=())
def _lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    seeds: torch.Tensor,
    sizes: list[int],
    p: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    h = low_rank_in(x, a.to(x.dtype), seeds, len(sizes), p)
    y = functional.linear(x, weight, bias)
    _add_low_rank(y, h, (scale * b).to(x.dtype), sizes)
    return y, h


@_lora_linear.register_fake
def _(x: Any, weight: Any, bias: Any, a: Any, b: Any, seeds: Any, sizes: Any, p: Any, scale: Any) -> Any:
    return x.new_empty((x.shape[0], weight.shape[0])), x.new_empty((x.shape[0], a.shape[0]))


@torch.library.custom_op("tandem::lora_linear_backward", mutates_args=())
def _lora_linear_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    seeds: torch.Tensor,
    sizes: list[int],
    p: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dy = dy.contiguous()
    dh, db = _gradients_of_b(dy, h, (scale * b).to(dy.dtype), sizes, b.dtype, scale)
    dx = dy @ weight
    da = low_rank_back(x, dx, dh, a.to(x.dtype), seeds, len(sizes), p)
    return dx, da.to(a.dtype), db


@_lora_linear_backward.register_fake
def _(
    dy: Any, x: Any, h: Any, weight: Any, a: Any, b: Any, seeds: Any, sizes: Any, p: Any, scale: Any
) -> Any:  # fmt: skip
    return x.new_empty(x.shape), torch.empty_like(a), torch.empty_like(b)


def _keep_for_linear(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, _, a, b, seeds, ctx.sizes, ctx.p, ctx.scale = inputs
    ctx.save_for_backward(x, output[1], weight, a, b, seeds)


def _back_through_linear(ctx: Any, dy: torch.Tensor, _: Any) -> Any:
    dx, da, db = _lora_linear_backward(dy, *ctx.saved_tensors, ctx.sizes, ctx.p, ctx.scale)
    return dx, None, None, da, db, None, None, None, None


_lora_linear.register_autograd(_back_through_linear, setup_context=_keep_for_linear)


@torch.library.custom_op("tandem::lora_mlp", mutates_args=())
def _lora_mlp(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    a_gate_up: torch.Tensor,
    b_gate_up: torch.Tensor,
    a_down: torch.Tensor,
    b_down: torch.Tensor,
    seeds: torch.Tensor,
    p: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    h_in = low_rank_in(x, a_gate_up.to(x.dtype), seeds[:1], 2, p)
    both = torch.cat([x, h_in], 1) @ gate_up.T
    act, h_act = swiglu_in(both, a_down.to(x.dtype), seeds[1:], p)
    y = act @ down.T
    _add_low_rank(y, h_act, (scale * b_down).to(x.dtype), [y.shape[1]])
    return y, both, h_in, h_act


@_lora_mlp.register_fake
def _(
    x: Any, gate_up: Any, down: Any, a_gate_up: Any, b_gate_up: Any, a_down: Any, b_down: Any, seeds: Any, p: Any, scale: Any  # noqa: E501
) -> Any:  # fmt: skip
    rows = x.shape[0]
    widths = (down.shape[0], gate_up.shape[0], a_gate_up.shape[0], a_down.shape[0])
    return tuple(x.new_empty((rows, width)) for width in widths)


@torch.library.custom_op("tandem::lora_mlp_backward", mutates_args=())
def _lora_mlp_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    both: torch.Tensor,
    h_in: torch.Tensor,
    h_act: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    a_gate_up: torch.Tensor,
    b_gate_up: torch.Tensor,
    a_down: torch.Tensor,
    b_down: torch.Tensor,
    seeds: torch.Tensor,
    p: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dy = dy.contiguous()
    dtype, inner, wide = x.dtype, down.shape[1], x.shape[1]
    dh_act, db_down = _gradients_of_b(dy, h_act, (scale * b_down).to(dtype), [dy.shape[1]], b_down.dtype, scale)
    dboth, da_down = swiglu_back(dy @ down, both, dh_act, a_down.to(dtype), seeds[1:], p)
    dh_in, db_gate_up = _gradients_of_b(
        dboth, h_in, (scale * b_gate_up).to(dtype), [inner, inner], b_gate_up.dtype, scale
    )
    dx = dboth @ gate_up[:, :wide]
    da_gate_up = low_rank_back(x, dx, dh_in, a_gate_up.to(dtype), seeds[:1], 2, p)
    return (
        dx,
        da_gate_up.to(a_gate_up.dtype),
        db_gate_up,
        da_down.to(a_down.dtype),
        db_down,
    )


@_lora_mlp_backward.register_fake
def _(
    dy: Any, x: Any, both: Any, h_in: Any, h_act: Any, gate_up: Any, down: Any, a_gate_up: Any, b_gate_up: Any, a_down: Any, b_down: Any, seeds: Any, p: Any, scale: Any  # noqa: E501
) -> Any:  # fmt: skip
    return (x.new_empty(x.shape), *(torch.empty_like(small) for small in (a_gate_up, b_gate_up, a_down, b_down)))


def _keep_for_mlp(ctx: Any, inputs: Any, output: Any) -> None:
    x, gate_up, down, a_gate_up, b_gate_up, a_down, b_down, seeds, ctx.p, ctx.scale = inputs
    _, both, h_in, h_act = output
    ctx.save_for_backward(x, both, h_in, h_act, gate_up, down, a_gate_up, b_gate_up, a_down, b_down, seeds)


def _back_through_mlp(ctx: Any, dy: torch.Tensor, *_: Any) -> Any:
    dx, da_gate_up, db_gate_up, da_down, db_down = _lora_mlp_backward(dy, *ctx.saved_tensors, ctx.p, ctx.scale)
    return dx, None, None, da_gate_up, db_gate_up, da_down, db_down, None, None, None


_lora_mlp.register_autograd(_back_through_mlp, setup_context=_keep_for_mlp)


def _add_low_rank(y: torch.Tensor, h: torch.Tensor, b_scaled: torch.Tensor, sizes: Sequence[int]) -> None:
    rank = b_scaled.shape[1]
    parts = zip(
        torch.split(y, list(sizes), 1), torch.split(h, rank, 1), torch.split(b_scaled, list(sizes)), strict=True
    )
    for part, hidden, weights in parts:
        part.addmm_(hidden, weights.T)


def _gradients_of_b(
    dy: torch.Tensor,
    h: torch.Tensor,
    b_scaled: torch.Tensor,
    sizes: Sequence[int],
    dtype: torch.dtype,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of h, [T, layers * r], and of b, [sum of sizes, r]."""
    rank = b_scaled.shape[1]
    dys = torch.split(dy, list(sizes), 1)
    dh = torch.cat([part @ weights for part, weights in zip(dys, torch.split(b_scaled, list(sizes)), strict=True)], 1)
    db = torch.cat(
        [multiply_exactly(part.T, hidden) for part, hidden in zip(dys, torch.split(h, rank, 1), strict=True)]
    )
    return dh, (scale * db).to(dtype)


def multiply_exactly(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product, not rounded to a shorter number format than float32."""
    if left.dtype in (torch.float32, torch.float64):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def low_rank_in(x: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, groups: int, p: float) -> torch.Tensor:
    """dropout(x) A^T for each of `groups` matrices A in a [groups * r, in], side by side: [T, groups * r]."""
    if x.is_cuda:
        from tandem.model import lora_kernels

        return lora_kernels.low_rank_in(x, a, seeds, groups, p)
    parts = [_drop(x, seeds, group, p) @ weights.T for group, weights in enumerate(a.chunk(groups))]
    return torch.cat(parts, 1)


def low_rank_back(
    x: torch.Tensor, dx: torch.Tensor, dh: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, groups: int, p: float
) -> torch.Tensor:
    """Gradient of a in float32 or better, from that of low_rank_in's result, dh; x's is added to dx in place."""
    if x.is_cuda:
        from tandem.model import lora_kernels

        return lora_kernels.low_rank_back(x, dx, dh, a, seeds, groups, p)
    da = []
    for group, (hidden, weights) in enumerate(zip(dh.chunk(groups, 1), a.chunk(groups), strict=True)):
        da.append(multiply_exactly(hidden.T, _drop(x, seeds, group, p)))
        dx += _drop(hidden @ weights, seeds, group, p)
    return torch.cat(da)


def swiglu_in(
    gate_up: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(gate) * up [T, inner] from gate_up [T, 2 * inner]; and dropout of it times A^T, for a [r, inner]."""
    if gate_up.is_cuda:
        from tandem.model import lora_kernels

        return lora_kernels.swiglu_in(gate_up, a, seeds, p)
    gate, up = gate_up.chunk(2, 1)
    act = functional.silu(gate) * up
    return act, _drop(act, seeds, 0, p) @ a.T


def swiglu_back(
    dact: torch.Tensor, gate_up: torch.Tensor, dh: torch.Tensor, a: torch.Tensor, seeds: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate_up and of a, from those of swiglu_in's two results."""
    if dact.is_cuda:
        from tandem.model import lora_kernels

        return lora_kernels.swiglu_back(dact, gate_up, dh, a, seeds, p)
    gate, up = gate_up.chunk(2, 1)
    chance = torch.sigmoid(gate)
    silu = gate * chance
    da = multiply_exactly(dh.T, _drop(silu * up, seeds, 0, p))
    dact = dact + _drop(dh @ a, seeds, 0, p)
    return torch.cat([dact * up * (chance + silu * (1 - chance)), dact * silu], 1), da


def _drop(x: torch.Tensor, seeds: torch.Tensor, group: int, p: float) -> torch.Tensor:
    if p == 0:
        return x
    keep = keep_mask(seeds[group // 2], *x.shape, half=group % 2, p=p)
    return torch.where(keep, x / (1 - p), 0)
