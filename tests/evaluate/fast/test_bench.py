from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_benchmark_runs_on_cpu_and_finds_both_ways_equal(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    small = (
        "--geometry tiny --device cpu --samples 6 --tiles 1 4 --new 12 --least-new 3 --groups 4 --baseline 2"
        " --equal-new 8 --row-tokens 50"
    )
    ended = subprocess.run(
        [
            sys.executable,
            "bench/gpu_eval.py",
            *small.split(),
            "--variants",
            "neither",
            "--adapter",
            "4",
            "--output",
            str(output),
        ],
        env=os.environ | {"PYTHONPATH": "src"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    report = json.loads(output.read_text())
    assert set(report["ways"]) == {"neither", "neither, adapter"}
    for found in report["ways"].values():
        assert found["tokens_per_second"] > 0
        assert found["same_again"]
    assert report["equality"]["float32"]["largest_difference"] < 1e-4
    assert report["equality"]["float32"]["texts_that_differ"] == 0
    assert max(report["kernels"].values()) < 0.01
