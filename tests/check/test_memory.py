"""The memory formula against figures measured on one H200, and how it follows the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.check.memory import LOGITS_AT_ONCE, count_adapter_parameters, estimate_generation, estimate_training
from tandem.model import internvl
from tandem.model.info import ModelInfo
from tandem.spec import Precision, TrainSpec

INTERNVL3_2B = ModelInfo(
    folder=Path(),
    tile_size=448,
    patch_size=14,
    downsample=0.5,
    tokens_per_tile=256,
    image_token_id=151_667,
    vocab_size=151_674,
    text_model="qwen2",
    text_hidden_size=1536,
    text_intermediate_size=8960,
    text_layers=28,
    text_heads=12,
    text_kv_heads=2,
    text_positions=32_768,
    vision_hidden_size=1024,
    vision_layers=24,
    vision_heads=16,
    vision_parameters=304_000_000,
    projector_parameters=8_000_000,
    language_parameters=1_548_000_000,
    weight_bytes=3_720_000_000,
)


def train(dtype: str, dropout: float, *, checkpointing: bool = False, stage: int = 0, ranks: int = 1) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "meta": "meta.json",
            "ranks": ranks,
            "lora": {"dtype": dtype, "dropout": dropout},
            "batch": {"globalSize": 8},
            "zero": {"stage": stage},
            "gradientCheckpointing": checkpointing,
            "steps": 1,
        }
    )


def test_a_rank_16_adapter_of_the_2b_model_has_as_many_weights_as_published() -> None:
    """18.5 million: the trainable parameters that the original's training of InternVL3-2B prints."""
    assert round(count_adapter_parameters(INTERNVL3_2B, train("float32", 0.05)) / 1e6, 1) == 18.5


@pytest.mark.parametrize(
    ("dtype", "dropout", "checkpointing", "tokens", "measured"),
    [
        ("float32", 0.05, False, 8_192, 44),
        ("float32", 0.05, False, 16_384, 84),
        ("float32", 0.05, False, 4 * 2_581, 53),  # four padded samples, the longest of 2,581 tokens
        ("bfloat16", 0.0, False, 8_192, 24),
        ("bfloat16", 0.0, False, 16_384, 45),
        ("bfloat16", 0.0, True, 8_192, 8.6),
        ("float32", 0.05, True, 4 * 2_581, 8.7),
    ],
)
def test_the_estimate_is_near_what_one_h200_needed(
    dtype: str, dropout: float, checkpointing: bool, tokens: int, measured: float
) -> None:
    """Peaks in GB on one H200: InternVL3-2B's geometry, bfloat16, rank 16, no DeepSpeed, labels on a quarter."""
    settings = train(dtype, dropout, checkpointing=checkpointing)
    estimate = estimate_training(INTERNVL3_2B, settings, tokens=tokens, labelled=tokens // 4)
    assert estimate.total / 1e9 == pytest.approx(measured, rel=0.2)


def test_zero_1_shares_the_optimizer_s_state_among_the_ranks() -> None:
    alone, shared = (
        estimate_training(INTERNVL3_2B, train("float32", 0, stage=stage, ranks=8), tokens=100, labelled=10).adapter
        for stage in (0, 1)
    )
    assert alone - shared == pytest.approx(18_464_768 * 12 * 7 / 8, abs=1)


def test_a_batch_of_twice_the_tokens_needs_twice_the_cache() -> None:
    one, two = (
        estimate_generation(INTERNVL3_2B, precision=Precision.BFLOAT16, tokens=tokens, sequences=4)
        for tokens in (10_000, 20_000)
    )
    assert two.activations == 2 * one.activations
    assert two.weights == one.weights == 1_860_000_000 * 2


def test_logits_are_counted_as_the_model_makes_them() -> None:
    assert LOGITS_AT_ONCE == internvl.LOGITS_AT_ONCE
