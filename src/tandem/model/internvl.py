"""InternVL as it is trained: packed or padded micro-batches, logits only where there is a label.

Importing this module imports torch and transformers; everything else in this room does so inside functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLCausalLMOutputWithPast

IGNORED = -100
"""The label of a position that nothing is learnt from."""

LOGITS_AT_ONCE = 2**26
"""Logits (count, fp32) that the loss holds at one time: 256 MiB, 442 labels of Qwen2's vocabulary."""


class Decoder(Protocol):
    """Anything that takes packed embeddings [1, T, hidden] through the language model."""

    def __call__(self, embeddings: torch.Tensor, sequence_lengths: torch.Tensor) -> torch.Tensor:
        """The last hidden states, [1, T, hidden]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Faster:
    """What takes the plain way's place; None stands for the plain way."""

    decode: Decoder | None = None
    sum_losses: Callable[[nn.Linear, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    labels_only: bool = True
    """Logits and loss only where there is a label; False: at every position, with the same loss."""


def _add_parameters(function: Callable[..., Any], *names: str) -> inspect.Signature:
    known = inspect.signature(function)
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    ordered = sorted([*known.parameters.values(), *added], key=lambda parameter: parameter.kind)
    return known.replace(parameters=ordered)


class TrainableInternVL(InternVLForConditionalGeneration):  # type: ignore[no-untyped-call]
    """transformers' InternVL; with labels, forward computes the loss and nothing that the loss does not need."""

    faster: Faster = Faster()
    """Other ways to the same loss; speed.py chooses them."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as the parent: transformers maps a checkpoint's names only for classes of its own."""
        loaded: Any = InternVLForConditionalGeneration.from_pretrained(*args, **kwargs)
        if kwargs.get("output_loading_info"):
            model, report = loaded
            return make_trainable(model), report
        return make_trainable(loaded)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        sequence_lengths: torch.Tensor | None = None,
        normaliser: float | None = None,
        **others: Any,
    ) -> Any:
        """Without labels as the parent, so that generation works; with labels return the loss alone.

        input_ids and labels are [1, T] with sequence_lengths ([samples], their sum is T) for a packed micro-batch,
        or [B, T] with attention_mask ([B, T], 1 for what is no padding) for one padded on the right.
        pixel_values is [tiles, 3, side, side], all tiles of the micro-batch in the order of its image tokens, or
        None. labels are not shifted: the one at t is predicted from t - 1. The loss is the sum of the token losses
        (fp32) divided by normaliser, or by the number of labels if that is None. A packed micro-batch's input_ids,
        labels and sequence_lengths may lie on the CPU while the model is on a GPU: then the CPU, which is ahead,
        does not wait for it. Raises ValueError if image tokens and features do not match in number.
        """
        if labels is None:
            return super().forward(input_ids=input_ids, **others)
        if input_ids is None:
            raise ValueError("a loss needs input_ids")
        chosen = find_labelled(labels, sequence_lengths)
        hidden = self._encode(input_ids, others.get("pixel_values"), others.get("attention_mask"), sequence_lengths)
        select = select_labelled if self.faster.labels_only else select_all
        predicting, targets = select(hidden, labels, chosen)
        total = (self.faster.sum_losses or sum_token_losses)(self.lm_head, predicting, targets)
        divisor = float(max(1, int(chosen.sum()))) if normaliser is None else normaliser
        return InternVLCausalLMOutputWithPast(loss=total / divisor)

    # generate() reads the names of forward's parameters to decide what to pass: it must still see the parent's.
    forward.__signature__ = _add_parameters(  # type: ignore[attr-defined]
        InternVLForConditionalGeneration.forward, "sequence_lengths", "normaliser"
    )

    def _encode(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        sequence_lengths: torch.Tensor | None,
    ) -> torch.Tensor:
        """The language model's last hidden states, [B, T, hidden]."""
        table: Any = self.get_input_embeddings()
        embeddings = table(send(input_ids, table.weight.device))
        if pixel_values is not None:
            embeddings = self._place_images(embeddings, input_ids, pixel_values)
        if sequence_lengths is not None and self.faster.decode is not None:
            return self.faster.decode(embeddings, sequence_lengths)
        if sequence_lengths is None:
            outputs = self.model.language_model(
                inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
            )
        else:
            outputs = self.model.language_model(
                inputs_embeds=embeddings,
                attention_mask=mask_between_samples(sequence_lengths, embeddings.device),
                position_ids=restart_positions(sequence_lengths, embeddings.device),
                use_cache=False,
            )
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden

    def _place_images(
        self, embeddings: torch.Tensor, input_ids: torch.Tensor, pixel_values: torch.Tensor
    ) -> torch.Tensor:
        learning = torch.is_grad_enabled() and _has_trainable(self.model.vision_tower, self.model.multi_modal_projector)
        with torch.set_grad_enabled(learning):
            features = self.model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        places = input_ids == self.config.image_token_id
        tokens, given = int(places.sum()), features.shape[0] * features.shape[1]
        if tokens != given:
            raise ValueError(f"{tokens} image tokens for {given} image features")
        places = send(places, embeddings.device)
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))


def make_trainable(model: InternVLForConditionalGeneration) -> TrainableInternVL:
    """Give a model the forward of training, in place; no weight is touched."""
    model.__class__ = TrainableInternVL
    trainable: Any = model
    return cast("TrainableInternVL", trainable)


def _has_trainable(*modules: nn.Module) -> bool:
    return any(weight.requires_grad for module in modules for weight in module.parameters())


def restart_positions(sequence_lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Position ids [1, T] that count from 0 in each of the packed samples."""
    return torch.cat([torch.arange(int(length), device=device) for length in sequence_lengths]).unsqueeze(0)


def mask_between_samples(sequence_lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Boolean mask [1, 1, T, T], True where a position may look: back, within its own sample.

    It grows with T squared; a kernel for sequences of various lengths needs only the lengths.
    """
    lengths = sequence_lengths.to(device)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    return ((sample[:, None] == sample[None, :]).tril())[None, None]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; on the way from the CPU to a GPU neither waits for the other."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def find_labelled(labels: torch.Tensor, sequence_lengths: torch.Tensor | None) -> torch.Tensor:
    """Boolean [B, T - 1], True where a position predicts a label.

    The first position of a sample is predicted by nothing, least of all by the end of the sample before it.
    """
    wanted = labels[:, 1:] != IGNORED
    if sequence_lengths is not None:
        starts = torch.cumsum(sequence_lengths.to(labels.device), 0)[:-1]
        wanted[0, starts - 1] = False
    return wanted


def select_labelled(
    hidden: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states [N, hidden] that predict a label (see find_labelled), and those labels [N]."""
    targets = labels[:, 1:][wanted]
    if hidden.device == labels.device:
        return hidden[:, :-1][wanted], targets
    rows, columns = torch.nonzero(wanted, as_tuple=True)
    places = send(rows * labels.shape[1] + columns, hidden.device)
    return hidden.flatten(0, 1).index_select(0, places), send(targets, hidden.device)


def select_all(hidden: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All hidden states that could predict a label [N, hidden], and those labels [N], IGNORED where none is wanted."""
    targets = labels[:, 1:].masked_fill(~wanted, IGNORED)
    return hidden[:, :-1].flatten(0, 1), send(targets.flatten(), hidden.device)


def sum_token_losses(
    head: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, *, logits_at_once: int = LOGITS_AT_ONCE
) -> torch.Tensor:
    """Sum in fp32 of the cross-entropies of hidden [N, hidden] against targets [N], IGNORED ones left out.

    Logits are made for as many positions at a time as logits_at_once allows, and made again for the gradient, so
    that memory grows neither with the number of labels nor with the vocabulary.
    """
    rows = max(1, logits_at_once // head.out_features)

    def chunk_loss(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(states).float(), labels, reduction="sum", ignore_index=IGNORED)

    if targets.numel() <= rows:
        return chunk_loss(hidden, targets)
    again = torch.is_grad_enabled() and hidden.requires_grad
    losses = [
        checkpoint(chunk_loss, states, labels, use_reentrant=False) if again else chunk_loss(states, labels)
        for states, labels in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.stack(losses).sum()
