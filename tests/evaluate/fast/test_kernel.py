"""The kernel's arithmetic, by Triton's interpreter on CPU; compiled for a GPU it is checked by bench/gpu_eval.py."""

from __future__ import annotations

from pathlib import Path

from tests.interpreted import count_passed


def test_the_kernel_finds_what_its_reference_finds() -> None:
    assert count_passed(Path(__file__).with_name("interpreted_kernel.py")) == 11
