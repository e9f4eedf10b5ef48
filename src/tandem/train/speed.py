"""Which of the fast ways a Run takes on this machine."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from tandem.spec import TrainSpec

if TYPE_CHECKING:
    from tandem.model.speed import Speed


def choose_speed(train: TrainSpec, *, cuda: bool) -> Speed:
    """The model's share of the ways that decide_ways names, for make_fast."""
    from tandem.model.speed import Speed

    ways = decide_ways(train, cuda=cuda)
    return Speed(**{field.name: ways[field.name] for field in fields(Speed)})


def decide_ways(train: TrainSpec, *, cuda: bool) -> dict[str, bool]:
    """What the Run says; where it says nothing, all that its micro-batches can take with a GPU, labels_only without."""
    asked = train.speed.model_dump()
    fast = cuda and train.batch.packed_tokens is not None
    labels_only = train.speed.labels_only is not False
    default = dict.fromkeys(asked, fast) | {
        "fused_loss": fast and labels_only,
        "labels_only": labels_only,
        "fused_optimizer": cuda,
    }
    return {name: default[name] if value is None else value for name, value in asked.items()}
