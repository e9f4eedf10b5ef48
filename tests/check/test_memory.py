"""The memory formula against figures measured on one H200, and how it follows the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.check.machine import check_training_memory
from tandem.check.memory import LOGITS_AT_ONCE, count_adapter_parameters, estimate_generation, estimate_training
from tandem.check.report import Collector, Severity
from tandem.model import internvl
from tandem.model.info import ModelInfo
from tandem.spec import Precision, TrainSpec
from tandem.spec.train import LANGUAGE_MODEL_PROJECTIONS

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

INTERNVL3_8B = replace(
    INTERNVL3_2B,
    text_hidden_size=3584,
    text_intermediate_size=18_944,
    text_heads=28,
    text_kv_heads=4,
    projector_parameters=28_000_000,
    language_parameters=7_613_000_000,
    weight_bytes=15_890_000_000,
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


def train_packed(tokens: int, *, dropout: float = 0.05, **changes: Any) -> TrainSpec:
    plain = train("float32", dropout).model_dump(by_alias=True, mode="json")
    changed = {"maxLength": min(2800, tokens), "batch": {"globalSize": 64, "packedTokens": tokens}, **changes}
    return TrainSpec.model_validate(plain | changed)


@pytest.mark.parametrize(
    ("model", "tokens", "compiled", "measured"),
    [
        (INTERNVL3_2B, 16_384, True, 32.7),
        (INTERNVL3_2B, 8_192, True, 18.6),
        (INTERNVL3_8B, 16_384, True, 77.4),
        (INTERNVL3_2B, 16_384, False, 35.7),
    ],
)
def test_the_fused_way_needs_what_docs_benchmarks_md_says_that_it_needed(
    model: ModelInfo, tokens: int, compiled: bool, measured: float
) -> None:
    """Peaks in GB with all fast ways, or all but compiled layers: bfloat16, float32 adapter of rank 16, dropout."""
    settings = train_packed(tokens, speed={} if compiled else {"compiled": False})
    estimate = estimate_training(model, settings, tokens=tokens, labelled=tokens // 4)
    assert estimate.total / 1e9 == pytest.approx(measured, rel=0.1)
    assert estimate.sure


@pytest.mark.parametrize(("tokens", "tried"), [(2_546, 4.60), (4_096, 5.03), (8_192, 5.80), (16_384, 7.16)])
def test_the_fused_way_with_checkpointing_needs_what_it_was_seen_to_need(tokens: int, tried: float) -> None:
    """Peaks in GB of docs/benchmarks.md, "What fits into memory": tried before there was an optimizer."""
    settings = train_packed(tokens, gradientCheckpointing=True)
    estimate = estimate_training(INTERNVL3_2B, settings, tokens=tokens, labelled=tokens // 4)
    optimizer = 12 * count_adapter_parameters(INTERNVL3_2B, settings)
    assert (estimate.total - optimizer) / 1e9 == pytest.approx(tried, rel=0.11)
    assert estimate.sure


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": {"fusedLora": False}},
        {"lora": {"dtype": "float32", "dropout": 0.05, "targets": list(LANGUAGE_MODEL_PROJECTIONS[1:])}},
    ],
)
def test_packed_training_that_cannot_take_the_fused_way_needs_what_padded_training_needs(
    changes: dict[str, Any],
) -> None:
    settings = train_packed(8_192, **changes)
    padded = train("float32", 0.05).model_copy(update={"lora": settings.lora})
    one, other = (estimate_training(INTERNVL3_2B, way, tokens=8_192, labelled=2_048) for way in (settings, padded))
    assert one == other
    assert one.sure


def test_in_the_fused_way_dropout_takes_no_memory() -> None:
    with_dropout, without = (
        estimate_training(INTERNVL3_2B, train_packed(8_192, dropout=dropout), tokens=8_192, labelled=2_048)
        for dropout in (0.05, 0.0)
    )
    assert with_dropout == without


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (INTERNVL3_2B, {"precision": "float32"}),
        (replace(INTERNVL3_2B, text_model="qwen3"), {}),
    ],
)
def test_the_fused_way_where_nobody_measured_it_is_an_uncertain_estimate(
    model: ModelInfo, changes: dict[str, Any]
) -> None:
    estimate = estimate_training(model, train_packed(8_192, **changes), tokens=8_192, labelled=2_048)
    assert not estimate.sure


def expect(settings: TrainSpec, gigabytes: float) -> tuple[dict[str, Any], list[Severity]]:
    """What is expected of a training of INTERNVL3_2B on a GPU with so much memory, and its findings."""
    findings = Collector()
    base: Any = SimpleNamespace(info=INTERNVL3_2B)
    facts = check_training_memory(settings, base, None, int(gigabytes * 1e9), findings)
    assert facts is not None
    return facts, [finding.severity for finding in findings.findings]


PACKED: dict[str, Any] = {"speed": {"fusedLora": False}}  # not the fused way, which nobody measured with checkpointing
PADDED: dict[str, Any] = {"maxLength": 2800, "batch": {"globalSize": 64, "perDevice": 4}}


@pytest.mark.parametrize(
    ("changes", "gigabytes", "tokens", "checkpointed", "severities"),
    [
        (PACKED, 141, 16_384, False, []),
        (PACKED, 80, 8_192, False, []),
        (PACKED, 24, 2_800, False, []),
        (PACKED, 16, 16_384, True, []),
        (PACKED, 8, 4_096, True, []),
        (PACKED, 3, 2_800, True, [Severity.FAULT]),
        (PACKED | {"gradientCheckpointing": False}, 12, 2_800, False, [Severity.FAULT]),
        (PACKED | {"batch": {"globalSize": 64, "packedTokens": 16_384, "fitMemory": False}}, 80, 16_384, True, []),
        (PADDED, 141, 11_200, False, []),
        (PADDED, 40, 11_200, True, []),
        (PADDED | {"gradientCheckpointing": False}, 40, 11_200, False, [Severity.FAULT]),
    ],
)
def test_what_training_will_try_in_so_much_memory_is_expected_and_refused_only_if_nothing_of_it_fits(
    changes: dict[str, Any], gigabytes: float, tokens: int, checkpointed: bool, severities: list[Severity]
) -> None:
    facts, found = expect(train_packed(16_384, **({"gradientCheckpointing": None} | changes)), gigabytes)
    assert (facts["micro_batch_tokens"], facts["checkpointed"], found) == (tokens, checkpointed, severities)


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
