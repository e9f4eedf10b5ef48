# ruff: noqa: PLR0917 - an operator and a kernel take as many tensors as they take, by place
"""The language model's decoder layers with LoRA, written for training packed micro-batches fast.

It computes what transformers' Qwen2 and Qwen3 layers with peft's LoRA layers compute, from the same parameters: the
adapter stays peft's, only the way through the layers is another. Base weights that share an input are moved side by
side in memory. Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from tandem.model.dropout_bits import draw_seeds
from tandem.model.lora_fused import lora_linear, lora_mlp, place_low_rank
from tandem.model.packed_attention import attend_within, describe_packing

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
SEEDS = 5
"""Of one layer: two for query, key and value, one each for output, gate and up, down."""

ADAPTER = "default"
"""peft's name for the adapter that is trained."""


class LayerWeights(NamedTuple):
    """All tensors of one layer; a and b are the adapter's, in the order of PROJECTIONS."""

    norm_before: torch.Tensor
    norm_after: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]


class LayerShape(NamedTuple):
    """What the layers of one model have in common."""

    heads: int
    key_heads: int
    head_size: int
    epsilon: float
    scale: float
    """LoRA's alpha / r."""


class FusedDecoder:
    """The decoder of a model with an adapter; holds the parameters, not copies."""

    def __init__(self, language_model: Any, *, compiled: bool) -> None:
        """Move base weights of a peft model's language model side by side. Raises ValueError if it cannot be fused;
        ask why_not_fused before.
        """
        reason = why_not_fused(language_model)
        if reason is not None:
            raise ValueError(reason)
        self.language_model, self.checkpointed = language_model, False
        first = language_model.layers[0]
        query = first.self_attn.q_proj
        self.dropout = _dropout_of(query)
        self.shape = LayerShape(
            heads=query.out_features // first.self_attn.head_dim,
            key_heads=first.self_attn.k_proj.out_features // first.self_attn.head_dim,
            head_size=first.self_attn.head_dim,
            epsilon=first.input_layernorm.variance_epsilon,
            scale=query.scaling[ADAPTER],
        )
        self.layers = [_gather_weights(layer) for layer in language_model.layers]
        self._layer: Callable[..., torch.Tensor] = torch.compile(run_layer) if compiled else run_layer
        self._norm: Callable[..., torch.Tensor] = torch.compile(rms_norm) if compiled else rms_norm
        self.compiled = compiled

    def __call__(self, embeddings: torch.Tensor, sequence_lengths: torch.Tensor) -> torch.Tensor:
        """The last hidden states [1, T, hidden] of a packed micro-batch."""
        training = self.language_model.training
        packing = describe_packing(sequence_lengths, embeddings.device)
        positions = torch.cat([torch.arange(int(length)) for length in sequence_lengths])[None]
        cos, sin = self.language_model.rotary_emb(embeddings, positions.to(embeddings.device, non_blocking=True))
        cos, sin = cos[0], sin[0]
        seeds = draw_seeds(len(self.layers), SEEDS, embeddings.device)
        p = self.dropout if training else 0.0
        hidden = embeddings[0].detach()
        if torch.is_grad_enabled():
            # Else the first layer would be another program than the others.
            hidden.requires_grad_(True)
        if self.compiled:
            for tensor in (hidden, cos, sin):
                torch._dynamo.mark_dynamic(tensor, 0)
            torch._dynamo.mark_dynamic(packing.starts, 0)
        with torch.no_grad():
            for weights in self.layers:
                place_low_rank(weights.gate_up, weights.b[4], weights.b[5], self.shape.scale)
        for weights, own in zip(self.layers, seeds.unbind(), strict=True):
            given = (hidden, cos, sin, packing.starts, packing.longest, own, weights, self.shape, p)
            if self.checkpointed and torch.is_grad_enabled():
                hidden = checkpoint(self._layer, *given, use_reentrant=False)
            else:
                hidden = self._layer(*given)
        norm = self.language_model.norm
        return self._norm(hidden, norm.weight, norm.variance_epsilon)[None]


def why_not_fused(language_model: Any) -> str | None:
    """Why this language model has to go the plain way, or None."""
    for layer in language_model.layers:
        for name in PROJECTIONS:
            projection = _find(layer, name)
            if projection is None:
                return f"its layers have no {name}"
            if ADAPTER not in getattr(projection, "lora_A", {}):
                return f"{name} has no adapter"
            if projection.lora_A[ADAPTER].bias is not None or projection.lora_B[ADAPTER].bias is not None:
                return f"the adapter of {name} has a bias"
        if any(_find(layer, name).base_layer.bias is not None for name in PROJECTIONS[3:]):
            return "its output or MLP layers have a bias"
        if getattr(layer.self_attn, "sliding_window", None) is not None:
            return "it attends within a sliding window"
    if getattr(language_model.config, "hidden_act", None) != "silu":
        return "its activation is not silu"
    return None


def run_layer(
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    seeds: torch.Tensor,
    weights: LayerWeights,
    shape: LayerShape,
    p: float,
) -> torch.Tensor:
    """One decoder layer over a row [T, hidden] of packed samples."""
    size, scale = shape.head_size, shape.scale
    widths = [shape.heads * size, shape.key_heads * size, shape.key_heads * size]
    x = rms_norm(hidden, weights.norm_before, shape.epsilon)
    qkv = lora_linear(
        x, weights.qkv, weights.qkv_bias, torch.cat(weights.a[:3]), torch.cat(weights.b[:3]), seeds[:2], widths,
        p=p, scale=scale,
    )  # fmt: skip
    query, key, value = (part.view(part.shape[0], -1, size) for part in torch.split(qkv, widths, 1))
    if weights.query_norm is not None and weights.key_norm is not None:
        query = rms_norm(query, weights.query_norm, shape.epsilon)
        key = rms_norm(key, weights.key_norm, shape.epsilon)
    attended = attend_within(rotate(query, cos, sin), rotate(key, cos, sin), value, starts, longest)
    hidden = hidden + lora_linear(
        attended.flatten(1), weights.output, None, weights.a[3], weights.b[3], seeds[2:3], [weights.output.shape[0]],
        p=p, scale=scale,
    )  # fmt: skip
    x = rms_norm(hidden, weights.norm_after, shape.epsilon)
    return hidden + lora_mlp(
        x, weights.gate_up, weights.down, torch.cat(weights.a[4:6]), torch.cat(weights.b[4:6]),
        weights.a[6], weights.b[6], seeds[3:5], p=p, scale=scale,
    )  # fmt: skip


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last dimension, in float32 inside, as transformers' Qwen2RMSNorm rounds it."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * exact.to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of [T, heads, size]; cos and sin are [T, size]."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def _find(layer: Any, name: str) -> Any:
    for part in name.split("."):
        layer = getattr(layer, part, None)
    return layer


def _dropout_of(projection: Any) -> float:
    return float(getattr(projection.lora_dropout[ADAPTER], "p", 0.0))


def _gather_weights(layer: Any) -> LayerWeights:
    projections = [_find(layer, name) for name in PROJECTIONS]
    attention = layer.self_attn
    bases = [projection.base_layer for projection in projections]
    qkv = _join_rows([base.weight for base in bases[:3]])
    biases = [base.bias for base in bases[:3]]
    return LayerWeights(
        norm_before=layer.input_layernorm.weight,
        norm_after=layer.post_attention_layernorm.weight,
        query_norm=getattr(getattr(attention, "q_norm", None), "weight", None),
        key_norm=getattr(getattr(attention, "k_norm", None), "weight", None),
        qkv=qkv,
        qkv_bias=None if biases[0] is None else torch.cat([bias.detach() for bias in biases]),
        output=bases[3].weight,
        gate_up=_join_rows([base.weight for base in bases[4:6]], room=2 * projections[4].r[ADAPTER]),
        down=bases[6].weight,
        a=tuple(projection.lora_A[ADAPTER].weight for projection in projections),
        b=tuple(projection.lora_B[ADAPTER].weight for projection in projections),
    )


def _join_rows(weights: list[torch.nn.Parameter], *, room: int = 0) -> torch.Tensor:
    """One matrix of all rows, with so many columns of zeros behind; the parameters become views of it."""
    joined = torch.cat([weight.detach() for weight in weights])
    wide = joined.shape[1]
    if room:
        joined = torch.cat([joined, joined.new_zeros((joined.shape[0], room))], 1)
    parts = torch.split(joined[:, :wide], [weight.shape[0] for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part
    return joined
