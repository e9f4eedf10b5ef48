"""How a process ended, told so that it survives torchrun."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration, BadData, Fault, Stopped, Unavailable
from tandem.outcome import (
    DONE,
    LINE_MARK,
    Outcome,
    choose_strongest,
    classify,
    describe_failure,
    parse_outcome_line,
    read_outcome,
    write_outcome,
)

FAULT = Fault(where="train.jsonl:7", what="image is truncated", remedy="Replace it.")


def test_expected_failures_keep_their_exit_code_and_remedy() -> None:
    for error, code, kind in (
        (BadData(FAULT), 65, "permanent"),
        (BadConfiguration(FAULT), 78, "permanent"),
        (Unavailable(FAULT), 75, "temporary"),
        (Stopped(FAULT), 143, "stopped"),
    ):
        outcome = describe_failure(error)
        assert (outcome.exit_code, classify(outcome)) == (code, kind)
        assert outcome.message == "train.jsonl:7: image is truncated"
        assert outcome.remedy == "Replace it."


def test_running_out_of_memory_is_a_class_of_its_own() -> None:
    class OutOfMemoryError(RuntimeError):
        """Named as torch names it."""

    assert classify(describe_failure(OutOfMemoryError("CUDA out of memory"))) == "out-of-memory"
    assert classify(describe_failure(MemoryError())) == "out-of-memory"


def test_a_lost_peer_explains_nothing_when_another_rank_knows_more() -> None:
    peer = describe_failure(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"))
    cause = describe_failure(BadData(FAULT))
    assert choose_strongest([peer, DONE, cause]) == cause
    assert choose_strongest([peer, DONE]) == peer


def test_an_unexpected_failure_is_retried_and_named() -> None:
    outcome = describe_failure(ZeroDivisionError("division by zero"))
    assert outcome.exit_code == 1
    assert outcome.message == "ZeroDivisionError: division by zero"


def test_an_outcome_survives_its_file(tmp_path: Path) -> None:
    outcome = describe_failure(BadData(FAULT))
    write_outcome(tmp_path / "rank-00000.json", outcome)
    assert read_outcome(tmp_path / "rank-00000.json") == outcome
    assert read_outcome(tmp_path / "rank-00001.json") is None


@given(st.text(), st.text(), st.integers(0, 255))
def test_an_outcome_survives_a_line_of_output(message: str, remedy: str, code: int) -> None:
    outcome = Outcome(exit_code=code, code="x", message=message, remedy=remedy)
    assert "\n" not in outcome.to_json()
    assert parse_outcome_line(f"{LINE_MARK}{outcome.to_json()}\n") == outcome


@given(st.text())
def test_no_other_line_is_an_outcome(line: str) -> None:
    parse_outcome_line(LINE_MARK + line)
    assert parse_outcome_line("x" + line) is None
