from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.evaluate.extract import DEFAULT_MARKER as M
from tandem.evaluate.extract import extract, is_exact, is_yes_or_no, normalise

pieces = st.lists(st.sampled_from([M, "Yes.", " ", "\n", "### The", "no", "é"]), max_size=8).map("".join)


def test_the_answer_stands_after_the_marker_and_the_reasoning_before_it() -> None:
    found = extract(f"\n Round and dark. \n{M} A cyst.\n", finish="stop")
    assert (found.status, found.markers) == ("answered", 1)
    assert (found.reasoning, found.answer, found.complete) == ("Round and dark.", "A cyst.", True)


def test_of_several_markers_the_last_one_counts() -> None:
    found = extract(f"a {M} first {M} second", finish="stop")
    assert (found.status, found.markers, found.answer) == ("several_markers", 2, "second")
    assert found.reasoning == f"a {M} first"
    assert found.complete


@pytest.mark.parametrize(
    ("text", "finish", "status", "answer"),
    [
        ("It is a cyst.", "stop", "no_marker", None),
        ("### the final answer is: Yes", "stop", "no_marker", None),
        ("", "stop", "empty", None),
        (" \n", "stop", "empty", None),
        (f"thought {M} \n", "stop", "empty", ""),
        (f"thought {M} Yes {M}", "stop", "empty", ""),
        ("thought and", "length", "truncated", None),
        (f"thought {M}", "length", "truncated", ""),
        (f"thought {M} Yes, and further", "length", "truncated", "Yes, and further"),
        ("", "length", "truncated", None),
    ],
)
def test_a_text_without_a_complete_answer_has_a_status_of_its_own(
    text: str, finish: str, status: str, answer: str | None
) -> None:
    found = extract(text, finish="stop" if finish == "stop" else "length")
    assert (found.status, found.answer, found.complete) == (status, answer, False)


@settings(deadline=None)
@given(pieces, st.sampled_from(["stop", "length"]))
def test_a_complete_answer_is_not_blank_and_holds_no_marker(text: str, finish: str) -> None:
    found = extract(text, finish="stop" if finish == "stop" else "length")
    assert (found.answer is not None) == (M in text) == (found.markers > 0)
    assert found.answer is None or M not in found.answer
    if found.complete:
        assert found.answer
        assert finish == "stop"


def test_the_marker_can_be_another() -> None:
    found = extract("so => 4", finish="stop", marker="=>")
    assert found.answer == "4"


def test_a_blank_marker_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="blank"):
        extract("text", finish="stop", marker=" ")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("yes", "Yes."),
        ("  Osteo-\n chondroma ", "osteo- CHONDROMA."),
        ("Pseudo-Jones fracture (avulsion)", "**Pseudo-Jones fracture (avulsion)**."),
        ("“Scoliosis”", "Scoliosis"),
        ("Stra\u00dfe", "STRASSE"),
        ("cafe\u0301", "caf\u00e9"),
        ("...", "..."),
    ],
)
def test_exact_match_overlooks_case_blanks_quotes_and_final_stops(answer: str, reference: str) -> None:
    assert is_exact(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("-3", "3"),
        (".5", "5"),
        ("10²", "102"),
        ("a cyst", "cyst"),
        ("left right", "right left"),
        ("", "yes"),
        ("?", "."),
    ],
)
def test_exact_match_keeps_apart_what_means_something_else(answer: str, reference: str) -> None:
    assert not is_exact(answer, reference)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_yes_and_no_are_recognised_in_a_reference() -> None:
    assert is_yes_or_no("Yes.")
    assert is_yes_or_no("**NO**")
    assert not is_yes_or_no("Yes, on the left.")
