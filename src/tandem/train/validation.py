"""The validation loss: mean over all labelled tokens of the set, whatever way it is cut into micro-batches.

Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tandem.spec import TrainSpec
from tandem.train.ranks import Ranks
from tandem.train.steps import Loading, StepLoader, StepSource, plan_validation
from tandem.train.trainer import to_device


def measure_validation(
    model: Any, loading: Loading, *, train: TrainSpec, ranks: Ranks, on_batch: Callable[[], None]
) -> float:
    """The validation loss over the loading's corpus, a part of it on each rank; all ranks must call it.

    on_batch is called after each micro-batch.
    """
    lengths = loading.corpus.lengths
    plans = plan_validation(lengths, train=train, ranks=ranks)
    return measure_loss(
        model,
        StepLoader(StepSource(loading, plans, train=train, rank=ranks.rank), len(plans), workers=train.workers),
        ranks,
        labelled=sum(length.labelled for length in lengths),
        device=next(model.parameters()).device,
        on_batch=on_batch,
    )


@torch.no_grad()
def measure_loss(
    model: Any,
    loader: StepLoader,
    ranks: Ranks,
    *,
    labelled: int,
    device: torch.device,
    on_batch: Callable[[], None],
) -> float:
    """Sum of this rank's token losses, over all ranks, divided by the set's labelled tokens; all ranks must call it."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    for loaded in loader:
        for batch, plan in zip(loaded.tensors, loaded.plan.micro_batches, strict=True):
            total += model(**to_device(batch, device), normaliser=plan.normaliser).loss.double().cpu()
            on_batch()
    model.train(was_training)
    return float(ranks.sum(total)) / labelled
