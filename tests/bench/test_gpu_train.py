from __future__ import annotations

from typing import Any

import pytest
from bench.gpu_profile import describe_kernels, find_gaps
from bench.gpu_train import compare_with_baseline

from tests.bench.running import run

MEASURED: dict[str, dict[str, Any]] = {
    "everything": {"samples_per_second": 9.0},
    "baseline": {"samples_per_second": 3.0},
    "out of memory": {"failure": "OutOfMemoryError"},
}


@pytest.mark.parametrize("names", [("everything", "baseline"), ("baseline", "everything")])
def test_ratios_are_to_the_baseline_wherever_it_stands(names: tuple[str, str]) -> None:
    assert compare_with_baseline({name: MEASURED[name] for name in names}) == {"baseline": 1, "everything": 3}


def test_without_a_baseline_or_without_a_figure_there_is_no_ratio() -> None:
    assert compare_with_baseline({"everything": MEASURED["everything"]}) == {"everything": None}
    assert compare_with_baseline(MEASURED)["out of memory"] is None


def test_gaps_are_times_without_any_kernel() -> None:
    kernels = [
        (10.0, 14.0, "long"),
        (11.0, 12.0, "within"),
        (15.0, 16.0, "late"),
        (16.0, 17.0, "next"),
        (19.5, 20.0, "e"),
    ]
    assert find_gaps(kernels) == [(2.5, 7.0, "next", "e"), (1.0, 4.0, "long", "late")]
    lines = describe_kernels(kernels, span=11.0)
    assert lines[:2] == [
        "      7.50 ms in kernels, 11.00 ms the step as profiled",
        "      3.50 ms in 2 gaps between kernels",
    ]
    assert find_gaps([]) == []


def test_the_training_benchmark_measures_each_way_against_the_baseline() -> None:
    result = run(
        "gpu_train", "--geometry", "tiny", "--global-size", "4", "--packed-tokens", "256", "--warm", "1",
        "--steps", "1", "--variants", "packed attention;baseline;labels only;+ fused LoRA",
    )  # fmt: skip
    variants = result["variants"]
    assert variants["baseline"]["ratio"] == 1
    assert variants["packed attention"]["ratio"] != 1
    for measured in variants.values():
        assert measured["tokens_per_sample"] * measured["samples_per_second"] == pytest.approx(
            measured["tokens_per_second"]
        )
        assert measured["samples_per_second"] > 0
        assert measured["tokens_per_second"] > measured["samples_per_second"]
        assert measured["compile"] == {"seconds": 0.0, "graphs": 0, "recompilations": 0}
    assert abs(variants["packed attention"]["losses"][0] - variants["+ fused LoRA"]["losses"][0]) < 1e-4
    # The same samples; but the baseline takes a mean for each micro-batch.
    assert abs(variants["packed attention"]["losses"][0] - variants["baseline"]["losses"][0]) < 1e-2
    assert len({measured["tokens_per_sample"] for measured in variants.values()}) == 1


def test_without_a_gpu_fitting_takes_the_tokens_as_they_are() -> None:
    result = run(
        "gpu_train", "--geometry", "tiny", "--global-size", "4", "--packed-tokens", "256", "--warm", "1",
        "--steps", "1", "--variants", "+ fused LoRA", "--fit", "--memory-share", "0.2",
    )  # fmt: skip
    memory = result["variants"]["+ fused LoRA"]["memory"]
    assert memory == {"packed_tokens": 256, "gradient_checkpointing": False, "tried": []}


def test_training_from_files_says_how_long_the_next_step_was_waited_for() -> None:
    result = run(
        "gpu_feed", "--geometry", "tiny", "--samples", "12", "--answer", "20", "--global-size", "4",
        "--packed-tokens", "256", "--workers", "0", "--steps", "4",
    )  # fmt: skip
    assert len(result["waits"]) == 4
    assert 0 < result["waiting_share"] < 1
