"""Causal attention within each of several samples that lie in one row.

Importing this module imports torch.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

SEQUENCES = 16
"""The list of starts is filled up with empty samples to a multiple of this, so that few shapes occur."""

LONGEST = 1024
"""The longest sample's length is rounded up to a multiple of this: it only bounds the kernel's grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing:
    """Where the samples of a row lie, as the kernel takes it."""

    starts: torch.Tensor
    """int32 [samples + 1], filled up with the row's end."""
    longest: int
    """No sample is longer."""


def describe_packing(sequence_lengths: torch.Tensor, device: torch.device) -> Packing:
    """The Packing of samples of these lengths (on the CPU, so that the device need not be waited for)."""
    ends = torch.cumsum(sequence_lengths, 0)
    filled = -(-(len(ends) + 1) // SEQUENCES) * SEQUENCES
    starts = torch.full((filled + 1,), int(ends[-1]), dtype=torch.int32)
    starts[0] = 0
    starts[1 : len(ends) + 1] = ends
    longest = -(-int(sequence_lengths.max()) // LONGEST) * LONGEST
    return Packing(starts=starts.to(device, non_blocking=True), longest=longest)


def attend_within(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int
) -> torch.Tensor:
    """Attention [T, heads, size]; key and value [T, key heads, size] may have fewer heads, which are then shared.

    On a GPU in bfloat16 by torch's kernel for sequences of various lengths, else by a mask that grows with T squared.
    """
    if query.is_cuda and query.dtype != torch.float32:
        return _attend_by_kernel(query, key, value, starts, longest)
    position = torch.arange(query.shape[0], device=query.device)
    sample = torch.bucketize(position, starts[1:].long(), right=True)
    mask = (sample[:, None] == sample[None, :]).tril()
    shared = query.shape[1] // key.shape[1]
    heads = (query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1))
    query, key, value = (states.transpose(0, 1)[None] for states in heads)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0].transpose(0, 1)


def _attend_by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(
        query, key, value, starts, starts, longest, longest, **_causal(query.shape[1] != key.shape[1])
    )
    attended: torch.Tensor = out
    return attended


@cache
def _known_options() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _causal(shares_heads: bool) -> dict[str, Any]:
    """How this version of torch is told that attention is causal, and that heads are shared."""
    known = _known_options()
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return options | ({"enable_gqa": True} if shares_heads and "enable_gqa" in known else {})
