"""The validation loss: mean over all labelled tokens of the set, whatever way it is cut into micro-batches.

Importing this module imports torch.
"""

from __future__ import annotations

from typing import Any

import torch

from tandem.train.ranks import Ranks
from tandem.train.steps import StepLoader
from tandem.train.trainer import to_device


@torch.no_grad()
def measure_loss(model: Any, loader: StepLoader, ranks: Ranks, *, labelled: int, device: torch.device) -> float:
    """Sum of this rank's token losses, over all ranks, divided by the set's labelled tokens; all ranks must call it."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    for loaded in loader:
        for batch, plan in zip(loaded.tensors, loaded.plan.micro_batches, strict=True):
            total += model(**to_device(batch, device), normaliser=plan.normaliser).loss.double().cpu()
    model.train(was_training)
    return float(ranks.sum(total)) / labelled
