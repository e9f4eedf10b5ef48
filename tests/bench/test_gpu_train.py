from __future__ import annotations

from tests.bench.running import run


def test_the_training_benchmark_measures_each_way_against_the_baseline() -> None:
    result = run(
        "gpu_train", "--geometry", "tiny", "--global-size", "4", "--packed-tokens", "256", "--warm", "1",
        "--steps", "1", "--variants", "baseline;packed attention;+ fused LoRA",
    )  # fmt: skip
    variants = result["variants"]
    assert variants["baseline"]["ratio"] == 1
    for measured in variants.values():
        assert measured["samples_per_second"] > 0
        assert measured["tokens_per_second"] > measured["samples_per_second"]
    assert abs(variants["packed attention"]["losses"][0] - variants["+ fused LoRA"]["losses"][0]) < 1e-4


def test_training_from_files_says_how_long_the_next_step_was_waited_for() -> None:
    result = run(
        "gpu_feed", "--geometry", "tiny", "--samples", "12", "--answer", "20", "--global-size", "4",
        "--packed-tokens", "256", "--workers", "0", "--steps", "4",
    )  # fmt: skip
    assert len(result["waits"]) == 4
    assert 0 < result["waiting_share"] < 1


def test_the_equality_benchmark_finds_the_fast_ways_equal() -> None:
    result = run("gpu_equality", "--geometry", "tiny", "--steps", "6", "--ways", "plain;fused loss;fused LoRA")
    assert result["equal"] is True
    assert max(result["operators"]["float32"].values()) < 1e-5
