"""The language model's weights as packed generation reads them: projections of one input joined, adapters beside them.

An adapter is not merged into bfloat16 weights: a change smaller than half a unit in a weight's last place would be
lost, always to the same side, and what is evaluated would not be what was trained. Its factors cost two small products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

SUPPORTED = ("llama", "qwen2", "qwen3")
"""Text models whose layers are the ones of `layers.py`."""


class Projection(NamedTuple):
    """x @ weight.T + bias, and for an adapted one + x @ narrow.T @ widen.T."""

    weight: torch.Tensor
    """[outputs, inputs]"""
    bias: torch.Tensor | None
    narrow: torch.Tensor | None
    """[rank, inputs]: LoRA's A, of joined projections below one another."""
    widen: torch.Tensor | None
    """[outputs, rank]: LoRA's B times its scale, of joined projections on the diagonal."""


class Layer(NamedTuple):
    """One decoder layer."""

    before_attention: torch.Tensor
    queries_keys_values: Projection
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    attention_output: Projection
    before_mlp: torch.Tensor
    gate_up: Projection
    down: Projection


class Shape(NamedTuple):
    """Sizes of the decoder."""

    heads: int
    key_heads: int
    """Heads of keys and values; heads / key_heads query heads share one."""
    head_size: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The language model of one network; its tensors are the network's own, not copies."""

    shape: Shape
    embedding: torch.Tensor
    """[vocabulary, hidden]"""
    layers: tuple[Layer, ...]
    norm: torch.Tensor
    head: torch.Tensor
    """[vocabulary, hidden]"""
    cosines: torch.Tensor
    """[positions, head_size]"""
    sines: torch.Tensor
    adapted: bool
    """Whether an adapter's factors stand beside the weights."""


def find_obstacle(network: Any) -> str | None:
    """What keeps packed generation from running this model, for a message; None if nothing does."""
    text = network.config.get_text_config()
    if text.model_type not in SUPPORTED:
        return f"its language model is a {text.model_type}, not one of {', '.join(SUPPORTED)}"
    if text.hidden_act != "silu":
        return f"its language model's activation is {text.hidden_act}, not silu"
    if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
        return "some of its layers look back only a part of the way"
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    if size < 16 or size & (size - 1):
        return f"its attention heads have {size} numbers, not a power of two of at least 16"
    for name, module in network.model.language_model.layers.named_modules():
        if name.endswith("_proj") and not (_is_plain(module) or _is_plain_lora(module)):
            return f"its layer {name} is a {type(module).__name__} that is neither a plain projection nor plain LoRA"
    return None


def join_weights(network: Any, *, positions: int) -> Decoder:
    """Read a network that has no obstacle; joins q, k, v and gate, up in place, so that no weight is there twice.

    positions is the longest sequence (tokens). The network computes afterwards what it computed before.
    """
    model, text = network.model.language_model, network.config.get_text_config()
    joined = tuple(_join_layer(layer) for layer in model.layers)
    heads = int(text.num_attention_heads)
    numbers = torch.arange(positions, device=network.device).unsqueeze(0)
    cosines, sines = model.rotary_emb(model.embed_tokens.weight[:1].unsqueeze(0), numbers)
    return Decoder(
        shape=Shape(
            heads=heads,
            key_heads=int(text.num_key_value_heads),
            head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
            epsilon=float(text.rms_norm_eps),
        ),
        embedding=model.embed_tokens.weight.detach(),
        layers=joined,
        norm=model.norm.weight.detach(),
        head=network.lm_head.weight.detach(),
        cosines=cosines[0].detach(),
        sines=sines[0].detach(),
        adapted=any(
            each.narrow is not None
            for layer in joined
            for each in (layer.queries_keys_values, layer.attention_output, layer.gate_up, layer.down)
        ),
    )


def _join_layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        before_attention=layer.input_layernorm.weight.detach(),
        queries_keys_values=_join([attention.q_proj, attention.k_proj, attention.v_proj]),
        query_norm=attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        attention_output=_join([attention.o_proj]),
        before_mlp=layer.post_attention_layernorm.weight.detach(),
        gate_up=_join([mlp.gate_proj, mlp.up_proj]),
        down=_join([mlp.down_proj]),
    )


def _join(modules: Sequence[Any]) -> Projection:
    bases = [module if _is_plain(module) else module.base_layer for module in modules]
    weight = torch.cat([base.weight.detach() for base in bases])
    for base, part in zip(bases, torch.split(weight, [base.out_features for base in bases]), strict=True):
        base.weight.data = part
    biases = [base.bias for base in bases]
    bias = None
    if any(each is not None for each in biases):
        bias = torch.cat(
            [
                weight.new_zeros(base.out_features) if each is None else each.detach()
                for base, each in zip(bases, biases, strict=True)
            ]
        )
    if all(_is_plain(module) for module in modules):
        return Projection(weight=weight, bias=bias, narrow=None, widen=None)
    factors = [_read_lora(module) for module in modules]
    diagonal: Any = torch.block_diag
    return Projection(
        weight=weight,
        bias=bias,
        narrow=torch.cat([narrow for narrow, _ in factors]).to(weight.dtype),
        widen=diagonal(*(widen for _, widen in factors)).to(weight.dtype),
    )


def _is_plain(module: Any) -> bool:
    return type(module) is nn.Linear


def _is_plain_lora(module: Any) -> bool:
    base = getattr(module, "base_layer", None)
    active: Any = getattr(module, "active_adapters", ())
    return (
        _is_plain(base)
        and len(active) == 1
        and not module.merged
        and not module.disable_adapters
        and active[0] in getattr(module, "lora_A", {})
        and not getattr(module, "lora_variant", {})
        and module.lora_B[active[0]].bias is None
    )


def _read_lora(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """LoRA's A [rank, inputs] and its B times the scale [outputs, rank], in float32; of rank 0 without an adapter."""
    if _is_plain(module):
        wide = module.weight.detach().float()
        return wide[:0], wide[:, :0]
    (name,) = module.active_adapters
    widen = module.lora_B[name].weight.detach().float() * float(module.scaling[name])
    return module.lora_A[name].weight.detach().float(), widen
