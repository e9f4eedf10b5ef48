"""Attention over packed prompts and over a paged cache: kernels on a GPU, plain torch as their reference and on CPU."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from tandem.evaluate.fast.cache import PAGE


def attend_packed(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: Sequence[int], bounds: torch.Tensor
) -> torch.Tensor:
    """Causal attention within each of the packed prompts: [T, heads, size] of queries, and keys with fewer heads.

    lengths sum to T; bounds (int32, [prompts + 1]) are their running sums on the device, from 0.
    """
    if queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16):
        return _attend_varlen(queries, keys, values, (bounds, bounds), (max(lengths), max(lengths)))
    return attend_each(queries, keys, values, lengths)


def attend_each(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """The reference: prompt by prompt."""
    group = queries.shape[1] // keys.shape[1]
    found = []
    for query, key, value in zip(*(torch.split(each, list(lengths)) for each in (queries, keys, values)), strict=True):
        seen = functional.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            key.repeat_interleave(group, dim=1).transpose(0, 1).unsqueeze(0),
            value.repeat_interleave(group, dim=1).transpose(0, 1).unsqueeze(0),
            is_causal=True,
        )
        found.append(seen[0].transpose(0, 1))
    return torch.cat(found)


def attend_last(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bounds: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Causal attention of a prompt's last tokens: [n, heads, size] of queries, [m >= n, key heads, size] of all keys.

    bounds are (0, n) and (0, m), int32 on the device.
    """
    if queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16):
        return _attend_varlen(queries, keys, values, bounds, (queries.shape[0], keys.shape[0]))
    return attend_masked(queries, keys, values)


def attend_masked(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The reference: the last query sees all keys, the one before it all but one, and so on."""
    group = queries.shape[1] // keys.shape[1]
    mask = torch.ones((queries.shape[0], keys.shape[0]), dtype=torch.bool, device=queries.device)
    seen = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys.repeat_interleave(group, dim=1).transpose(0, 1).unsqueeze(0),
        values.repeat_interleave(group, dim=1).transpose(0, 1).unsqueeze(0),
        attn_mask=mask.tril_(keys.shape[0] - queries.shape[0]),
    )
    return seen[0].transpose(0, 1)


def attend_paged(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Attention of one query [slots, heads, size] for each slot to the first lengths[slot] tokens of its pages.

    keys and values are one layer's of the cache; pages is int32 [slots, most pages], lengths int32 [slots]. A slot
    of length 0 gets zeros.
    """
    if queries.is_cuda:
        from tandem.evaluate.fast.kernel import attend_paged_kernel

        return attend_paged_kernel(queries, keys, values, pages, lengths)
    return attend_gathered(queries, keys, values, pages, lengths)


def attend_gathered(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, pages: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """The reference: all pages of all slots side by side, and a mask."""
    slots, heads, size = queries.shape
    tokens = (pages.long().unsqueeze(-1) * PAGE + torch.arange(PAGE, device=pages.device)).flatten(1)
    seen = torch.arange(tokens.shape[1], device=pages.device) < lengths.unsqueeze(1)
    grouped = queries.view(slots, keys.shape[1], heads // keys.shape[1], size)
    found = functional.scaled_dot_product_attention(
        grouped,
        keys[tokens].transpose(1, 2),
        values[tokens].transpose(1, 2),
        attn_mask=(seen | (lengths == 0).unsqueeze(1))[:, None, None, :],
    )
    return found.reshape(slots, heads, size) * (lengths > 0)[:, None, None]


def _attend_varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
) -> torch.Tensor:
    """Causal: bounds and longest are those of queries and of keys; the last query is at the place of the last key."""
    from torch.nn.attention.varlen import varlen_attn

    known = _read_varlen_parameters()
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    found: Any = varlen_attn(queries, keys, values, *bounds, *longest, **options)
    return found  # type: ignore[no-any-return]


@cache
def _read_varlen_parameters() -> frozenset[str]:
    """Torch 2.11's has no enable_gqa yet; 2.10's says is_causal instead of a window."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)
