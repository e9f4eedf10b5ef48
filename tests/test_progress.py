"""How far a stage is, from what its log says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.progress import Progress, add_progress, last_progress, parse_progress


def test_what_stages_print_is_progress() -> None:
    assert parse_progress("step 40/150 loss 0.31") == Progress(unit="step", done=40, total=150)
    assert parse_progress("sample 12/300 batch 3 of 40") == Progress(unit="sample", done=12, total=300)
    assert parse_progress("[rank 0] judged 7/300") == Progress(unit="judged", done=7, total=300)
    assert parse_progress("compared 128/300") == Progress(unit="compared", done=128, total=300)


def test_the_newest_line_that_tells_anything_counts() -> None:
    assert last_progress(["step 1/9", "a warning", "step 2/9", "saved"]) == Progress(unit="step", done=2, total=9)
    assert last_progress(["nothing", "at all 1/2"]) is None


def test_pods_that_share_a_job_add_up_in_one_unit() -> None:
    parts = [Progress(unit="sample", done=1, total=10), Progress(unit="sample", done=4, total=10)]
    assert add_progress(parts) == Progress(unit="sample", done=5, total=20)
    assert add_progress([*parts, Progress(unit="batch", done=9, total=9)]) == Progress(unit="sample", done=5, total=20)
    assert add_progress([]) is None


@given(st.text())
def test_no_line_breaks_the_reader(line: str) -> None:
    parse_progress(line)
