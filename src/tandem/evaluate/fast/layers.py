"""A decoder layer on rows of tokens, without its attention: the arithmetic of transformers' Qwen2, Qwen3 and Llama."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from tandem.evaluate.fast.weights import Layer, Projection, Shape


def open_layer(
    states: torch.Tensor, layer: Layer, cosines: torch.Tensor, sines: torch.Tensor, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [T, heads, size], keys and values [T, key heads, size], from states [T, hidden].

    cosines and sines [T, size] are those of the rows' positions.
    """
    mixed = project(normalise(states, layer.before_attention, shape.epsilon), layer.queries_keys_values)
    joined = mixed.view(states.shape[0], shape.heads + 2 * shape.key_heads, shape.head_size)
    queries, keys, values = torch.split(joined, [shape.heads, shape.key_heads, shape.key_heads], dim=1)
    if layer.query_norm is not None and layer.key_norm is not None:
        queries = normalise(queries, layer.query_norm, shape.epsilon)
        keys = normalise(keys, layer.key_norm, shape.epsilon)
    return rotate(queries, cosines, sines), rotate(keys, cosines, sines), values.contiguous()


def close_layer(states: torch.Tensor, attended: torch.Tensor, layer: Layer, shape: Shape) -> torch.Tensor:
    """The layer's output [T, hidden], from its input and what its attention [T, heads, size] found."""
    states = states + project(attended.reshape(states.shape[0], shape.heads * shape.head_size), layer.attention_output)
    gates, values = project(normalise(states, layer.before_mlp, shape.epsilon), layer.gate_up).chunk(2, dim=-1)
    return states + project(functional.silu(gates) * values, layer.down)


def project(states: torch.Tensor, projection: Projection) -> torch.Tensor:
    """[..., outputs] of [..., inputs]."""
    projected = functional.linear(states, projection.weight, projection.bias)
    if projection.narrow is None or projection.widen is None:
        return projected
    return projected + functional.linear(functional.linear(states, projection.narrow), projection.widen)


def normalise(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square normalisation of the last dimension, computed in float32."""
    wide = states.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * scaled.to(states.dtype)


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotary positions of [T, heads, size], halves apart."""
    first, second = states.chunk(2, dim=-1)
    return states * cosines.unsqueeze(1) + torch.cat((-second, first), dim=-1) * sines.unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class LayerCode:
    """`open_layer` and `close_layer`, compiled or not."""

    open: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    close: Callable[..., torch.Tensor]


def compile_for_rows() -> LayerCode:
    """Compiled once for rows of any number of tokens (two at least)."""
    # Each use has functions of its own, because compiled code is kept by function. Only the tokens' dimension is
    # marked: with dynamic=True the sizes in Shape would be unknown to the compiler, too.
    compiled_open: Any = torch.compile(_open_row, fullgraph=True)
    compiled_close: Any = torch.compile(_close_row, fullgraph=True)

    def open_row(states: torch.Tensor, layer: Layer, cosines: torch.Tensor, sines: torch.Tensor, shape: Shape) -> Any:
        for each in (states, cosines, sines):
            torch._dynamo.mark_dynamic(each, 0)
        return compiled_open(states, layer, cosines, sines, shape)

    def close_row(states: torch.Tensor, attended: torch.Tensor, layer: Layer, shape: Shape) -> Any:
        for each in (states, attended):
            torch._dynamo.mark_dynamic(each, 0)
        return compiled_close(states, attended, layer, shape)

    return LayerCode(open=open_row, close=close_row)


def compile_for_steps() -> LayerCode:
    """Compiled for one number of rows, which does not change."""
    compiled_open: Any = torch.compile(_open_step, fullgraph=True, dynamic=False)
    compiled_close: Any = torch.compile(_close_step, fullgraph=True, dynamic=False)
    return LayerCode(open=compiled_open, close=compiled_close)


def _open_row(*arguments: Any) -> Any:
    return open_layer(*arguments)


def _close_row(*arguments: Any) -> Any:
    return close_layer(*arguments)


def _open_step(*arguments: Any) -> Any:
    return open_layer(*arguments)


def _close_step(*arguments: Any) -> Any:
    return close_layer(*arguments)
