from __future__ import annotations

from typing import Any

from tandem.spec import TrainSpec
from tandem.train.zero import describe_zero
from tests.train.small import SETTINGS, merge


def settings(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(merge(SETTINGS, changes))


def test_stage_0_needs_no_deepspeed() -> None:
    assert describe_zero(settings(zero={"stage": 0})) is None


def test_stage_1_takes_its_figures_from_the_run_file() -> None:
    config = describe_zero(settings(ranks=2, zero={"stage": 1, "bucketElements": 5000}, optimizer={"clipNorm": 0.5}))
    assert config is not None
    assert config["zero_optimization"]["stage"] == 1
    assert config["zero_optimization"]["reduce_bucket_size"] == 5000
    assert config["gradient_clipping"] == 0.5
    assert config["wall_clock_breakdown"] is False


def test_without_a_clip_norm_nothing_is_clipped() -> None:
    train = TrainSpec.model_validate({**SETTINGS, "zero": {"stage": 1}, "optimizer": {"clipNorm": None}})
    config = describe_zero(train)
    assert config is not None
    assert config["gradient_clipping"] == 0.0
