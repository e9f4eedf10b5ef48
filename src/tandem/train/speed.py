"""Which of the fast ways a Run takes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.spec import TrainSpec

if TYPE_CHECKING:
    from tandem.model.speed import Speed


def choose_speed(train: TrainSpec, *, cuda: bool) -> Speed:
    """The ways that decide_ways names, for make_fast."""
    from tandem.model.speed import Speed

    return Speed(**decide_ways(train, cuda=cuda))


def decide_ways(train: TrainSpec, *, cuda: bool) -> dict[str, bool]:
    """What the Run says; where it says nothing, all of them with a GPU and none without. Padded training: none."""
    asked = train.speed.model_dump()
    default = cuda and train.batch.packed_tokens is not None
    return {name: default if value is None else value for name, value in asked.items()}
