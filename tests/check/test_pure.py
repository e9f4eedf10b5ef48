"""Markers, overlaps and summaries, without files."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tandem.check.overlap import find_shared
from tandem.check.tokens import describe_lengths
from tandem.check.training import describe_marker_problem
from tandem.evaluate.extract import extract
from tandem.spec import find_marker
from tandem.train.samples import Length

MARKER = "### The final answer is:"


@settings(deadline=None)
@given(st.text(), st.text())
def test_an_answer_is_sound_exactly_when_evaluation_would_find_an_answer_in_it(reasoning: str, answer: str) -> None:
    for text in (f"{reasoning}{MARKER}{answer}", reasoning):
        found = extract(text, finish="stop", marker=MARKER).complete
        assert (describe_marker_problem(text, MARKER) is None) == found


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_the_marker_is_what_stands_before_the_answer(before: str, after: str) -> None:
    assume("{answer}" not in before)
    assert find_marker(f"{before}{{answer}}{after}") == before.strip()


keys = st.dictionaries(st.integers(0, 20).map(str), st.text(max_size=3), max_size=10)


@settings(deadline=None)
@given(keys, keys)
def test_what_is_shared_is_in_both_and_nothing_shared_is_missed(here: dict[str, str], there: dict[str, str]) -> None:
    assert find_shared(here, there) == [(here[key], there[key]) for key in here if key in there]
    assert len(find_shared(here, there)) == len(here.keys() & there.keys())


@settings(deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1))
def test_the_summary_of_lengths_lies_between_shortest_and_longest(tokens: list[int]) -> None:
    facts = describe_lengths([Length(tokens=count, image_tokens=0, labelled=1) for count in tokens])
    assert facts["samples"] == len(tokens) == facts["labelled"]
    assert facts["total"] == sum(tokens)
    assert facts["longest"] == max(tokens)
    assert min(tokens) <= facts["median"] <= facts["p95"] or len(tokens) < 20
    assert facts["p95"] <= facts["longest"]


def test_no_lengths_have_no_mean() -> None:
    assert describe_lengths([]) == {"samples": 0}
