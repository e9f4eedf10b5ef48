"""The kernel's arithmetic, by Triton's interpreter on CPU; compiled for a GPU it is checked by bench/gpu_eval.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_kernel_finds_what_its_reference_finds() -> None:
    pytest.importorskip("triton", reason="torch for CPU alone comes without it")
    file = Path(__file__).with_name("interpreted_kernel.py")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "11 passed" in ended.stdout
