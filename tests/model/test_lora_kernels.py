"""The kernels' arithmetic, by Triton's interpreter on CPU; compiled for a GPU bench/gpu_equality.py checks them.

What the interpreter cannot show: whether they compile, and numbers in bfloat16 as the matrix units round them.
"""

from __future__ import annotations

from pathlib import Path

from tests.interpreted import count_passed


def test_the_kernels_find_what_their_references_find() -> None:
    assert count_passed(Path(__file__).with_name("interpreted_kernels.py")) == 37
