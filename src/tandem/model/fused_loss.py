# ruff: noqa: PLR0917 - an operator takes as many tensors as it takes
"""The loss at the labels with its gradient in one go: each logit is made once.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LOGITS_AT_ONCE = 2**28
"""Logits held at one time, in the model's number format: 512 MiB in bfloat16."""


ALIGNED = 128
"""The head's rows are filled up to a multiple of this: at 151,674 classes matrix units reach a third of their speed."""


def fuse_head(head: nn.Linear) -> Callable[[nn.Linear, torch.Tensor, torch.Tensor], torch.Tensor]:
    """What computes internvl.sum_token_losses for this head, which must be frozen and have no bias.

    The head's weight becomes a view of a matrix that is filled up with zeros; nothing is held twice. Raises
    ValueError for a head that learns or has a bias.
    """
    if head.weight.requires_grad or head.bias is not None:
        raise ValueError("the fused loss is for a frozen head without bias")
    classes = head.weight.shape[0]
    filled = head.weight.new_zeros((-(-classes // ALIGNED) * ALIGNED, head.weight.shape[1]), requires_grad=False)
    filled[:classes] = head.weight.detach()
    head.weight.data = filled[:classes]

    def sum_losses(_: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return sum_losses_fused(filled, hidden, targets, classes=classes)

    return sum_losses


def sum_losses_fused(
    weight: torch.Tensor,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    classes: int,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> torch.Tensor:
    """The sum of the cross-entropies of hidden [N, hidden] against targets [N], in float32 or better.

    weight is [classes and filling, hidden], the filling zero. The gradient of hidden is made together with the loss,
    so that no logit is kept or made twice.
    """
    total: torch.Tensor = _SumLosses.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, classes, logits_at_once
    )
    return total


class _SumLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, classes: int, at_once: int
    ) -> Any:
        rows = max(1, at_once // weight.shape[0])
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        slope = torch.empty_like(hidden)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = hidden[part] @ weight.T
            total += _replace_by_gradient(logits, targets[part], classes).sum()
            torch.mm(logits, weight, out=slope[part])
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None, None, None


def _replace_by_gradient(logits: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """The losses [rows]; logits become their gradients in place, the filling zero."""
    if logits.is_cuda:
        from tandem.model.lora_kernels import cross_entropy

        return cross_entropy(logits, targets, classes)
    known = logits[:, :classes]
    chances = torch.log_softmax(known.to(torch.promote_types(logits.dtype, torch.float32)), 1)
    losses = -chances.gather(1, targets[:, None])[:, 0]
    slope = chances.exp()
    slope[torch.arange(len(targets)), targets] -= 1
    known.copy_(slope)
    return losses
