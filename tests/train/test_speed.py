from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from tandem.model.speed import Speed
from tandem.spec import TrainSpec
from tandem.train.speed import choose_speed, decide_ways

OF_PACKED = ("packed_attention", "fused_lora", "fused_loss", "compiled")


def settings(*, packed: bool = True, **speed: bool) -> TrainSpec:
    batch: dict[str, Any] = {"globalSize": 8} | ({"packedTokens": 16_384} if packed else {})
    return TrainSpec.model_validate(
        {"meta": "m", "steps": 1, "batch": batch, "speed": {to_camel(name): value for name, value in speed.items()}}
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("cuda", [True, False])
def test_where_the_run_file_says_nothing_a_gpu_takes_every_way_that_its_micro_batches_can(
    packed: bool, cuda: bool
) -> None:
    expected = dict.fromkeys(OF_PACKED, packed and cuda) | {"labels_only": True, "fused_optimizer": cuda}
    assert decide_ways(settings(packed=packed), cuda=cuda) == expected


@pytest.mark.parametrize("way", [*OF_PACKED, "labels_only", "fused_optimizer"])
def test_each_way_can_be_turned_off(way: str) -> None:
    ways = decide_ways(settings(**{way: False}), cuda=True)
    off = {way, "fused_loss"} if way == "labels_only" else {way}
    assert {name for name, taken in ways.items() if not taken} == off


def test_the_model_takes_its_share_of_them() -> None:
    everything = Speed(packed_attention=True, fused_lora=True, fused_loss=True, compiled=True)
    assert choose_speed(settings(), cuda=True) == everything
    assert choose_speed(settings(), cuda=False) == Speed()
    assert choose_speed(settings(labels_only=False), cuda=False) == Speed(labels_only=False)


@pytest.mark.parametrize(("asked", "fused"), [({}, False), ({"fused_optimizer": True}, True)])
def test_the_optimizer_is_one_kernel_if_the_run_file_says_so_or_there_is_a_gpu(
    asked: dict[str, bool], fused: bool
) -> None:
    import torch

    from tandem.train.trainer import StepTrainer

    trainer: Any = SimpleNamespace(optimizer=None, settings=settings(**asked), model=torch.nn.Linear(2, 2))
    assert StepTrainer.create_optimizer(trainer).defaults["fused"] is fused
