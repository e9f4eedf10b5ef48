from __future__ import annotations

from tests.bench.running import run


def test_the_benchmark_runs_on_cpu_and_finds_both_ways_equal() -> None:
    small = (
        "--geometry tiny --device cpu --samples 6 --tiles 1 4 --new 12 --least-new 3 --groups 4 --baseline 2"
        " --equal-new 8 --row-tokens 50 --variants neither --adapter 4"
    )
    report = run("gpu_eval", *small.split())
    assert set(report["ways"]) == {"neither", "neither, adapter"}
    for found in report["ways"].values():
        assert found["tokens_per_second"] > 0
        assert found["same_again"]
    assert report["equality"]["float32"]["largest_difference"] < 1e-4
    assert report["equality"]["float32"]["texts_that_differ"] == 0
    assert max(report["kernels"].values()) < 0.01
