"""Choosing the fast ways through the model: each computes what the plain way computes, and can be left off alone.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from tandem.model.internvl import Decoder, Faster
from tandem.model.packed_attention import attend_within, describe_packing

if TYPE_CHECKING:
    from tandem.model.fused_decoder import FusedDecoder

PACKED_ATTENTION = "tandem_packed"
"""The name under which transformers finds attention within packed samples."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Which fast ways are taken."""

    packed_attention: bool = False
    """Attention by a kernel that takes the samples' lengths, instead of a mask that grows with the row squared."""
    fused_lora: bool = False
    """Decoder layers with LoRA as few operators; includes packed_attention."""
    fused_loss: bool = False
    """Loss and its gradient in one go, each logit made once."""
    compiled: bool = False
    """Layers of both towers through torch.compile."""
    labels_only: bool = True
    """Logits and loss only where there is a label; without it there is no fused_loss."""


def make_fast(model: Any, speed: Speed) -> tuple[str, ...]:
    """Let a TrainableInternVL with its adapter take the fast ways for packed micro-batches, in place.

    Returns a line for each way that this model cannot take, and why.
    """
    notes: list[str] = []
    language_model = model.model.language_model
    decode: Decoder | None = None
    if speed.fused_lora:
        from tandem.model.fused_decoder import FusedDecoder, why_not_fused

        reason = why_not_fused(language_model)
        if reason is None:
            decode = FusedDecoder(language_model, compiled=speed.compiled)
        else:
            notes.append(f"the language model is trained without fused LoRA: {reason}")
    if decode is None and (speed.packed_attention or speed.fused_lora):
        decode = _attend_packed(language_model)
    if speed.compiled:
        if not isinstance(decode, _fused_type()):
            _compile_layers(language_model.layers)
        _compile_layers(model.model.vision_tower.encoder.layer)
        patches = model.model.vision_tower.embeddings.patch_embeddings.projection
        patches.forward = partial(project_patches, patches)
    sum_losses: Callable[[nn.Linear, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    if speed.fused_loss and speed.labels_only:
        from tandem.model.fused_loss import fuse_head

        if model.lm_head.weight.requires_grad or model.lm_head.bias is not None:
            notes.append("the loss is computed the plain way: the output layer learns or has a bias")
        else:
            sum_losses = fuse_head(model.lm_head)
    model.faster = Faster(decode=decode, sum_losses=sum_losses, labels_only=speed.labels_only)
    return tuple(notes)


def set_checkpointing(model: Any, *, on: bool) -> None:
    """Turn the language model's gradient checkpointing on or off, on any way through it.

    To be called after the adapter was attached: before, peft would have the inputs of the vision tower require
    gradients too.
    """
    language_model = model.model.language_model
    if on:
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
    elif language_model.gradient_checkpointing:
        language_model.gradient_checkpointing_disable()
    decode = model.faster.decode
    if isinstance(decode, _fused_type()):
        decode.checkpointed = on


def project_patches(convolution: nn.Conv2d, pixels: torch.Tensor) -> torch.Tensor:
    """What a convolution whose patches do not overlap computes, as one product: [n, out, rows, columns]."""
    size = convolution.weight.shape[-1]
    count, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    patches = pixels.view(count, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
    out = functional.linear(
        patches.reshape(count * rows * columns, -1), convolution.weight.flatten(1), convolution.bias
    )
    return out.view(count, rows, columns, -1).permute(0, 3, 1, 2)


def _fused_type() -> type[FusedDecoder]:
    from tandem.model.fused_decoder import FusedDecoder

    return FusedDecoder


def _compile_layers(layers: Any) -> None:
    for layer in layers:
        layer.compile(dynamic=True)


def _attend_packed(language_model: Any) -> Decoder:
    """Transformers' own layers, with attention that takes the samples' lengths."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, _attend)
    language_model.config._attn_implementation = PACKED_ATTENTION

    def decode(embeddings: torch.Tensor, sequence_lengths: torch.Tensor) -> torch.Tensor:
        packing = describe_packing(sequence_lengths, embeddings.device)
        positions = torch.cat([torch.arange(int(length)) for length in sequence_lengths])[None]
        outputs = language_model(
            inputs_embeds=embeddings,
            # As a mapping it is taken as it is: no mask is made.
            attention_mask=dict.fromkeys(language_model.config.layer_types),
            position_ids=positions.to(embeddings.device, non_blocking=True),
            use_cache=False,
            starts=packing.starts,
            longest=packing.longest,
        )
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden

    return decode


def _attend(
    module: Any,  # noqa: ARG001 - transformers' signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,  # noqa: ARG001
    *,
    starts: torch.Tensor,
    longest: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    return attend_within(query, key, value, starts, longest)[None], None
