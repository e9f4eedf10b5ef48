"""What all tests of stages share: no process outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import end_processes


@pytest.fixture(autouse=True)
def _end_what_a_failing_test_leaves(tmp_path: Path) -> Iterator[None]:
    yield
    end_processes(tmp_path)
