import pytest

from tandem.demo.report import count_right_without_marker, draw_comparison
from tandem.evaluate.extract import DEFAULT_MARKER, extract, is_exact
from tandem.evaluate.figures import summarise
from tandem.evaluate.judge import JudgeIdentity
from tandem.evaluate.records import ScoreLine, Verdict
from tandem.evaluate.result import Header, Result

JUDGE_LINE = "judged by exact match"


def line(text: str, reference: str, *, number: int = 0, finish: str = "stop") -> ScoreLine:
    assert finish in {"stop", "length"}
    found = extract(text, finish="stop" if finish == "stop" else "length")
    exact = found.complete and is_exact(found.answer or "", reference)
    return ScoreLine(
        sample_id=f"sample-{number}",
        case_id=None,
        question="Which?",
        images=("a.png",),
        reference_answer=reference,
        reference_reasoning=None,
        answer_type="OPEN" if number % 2 else "CLOSED",
        finish="stop" if finish == "stop" else "length",
        prompt_tokens=1,
        new_tokens=1,
        tiles=1,
        markers=found.markers,
        status=found.status,
        reasoning=found.reasoning,
        answer=found.answer,
        exact=exact,
        verdict=Verdict(verdict="right" if exact else "wrong"),
        bertscore=None,
        original=None,
    )


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("The image shows 7. Answer: 7", "7", True),
        ("The image shows 7. Answer: yes.", "Yes", True),
        ("7", "7", True),
        ("Answer: 3 and 7", "3 and 7", True),
        ("Answer: the  SECOND", "The second", True),
        ("Answer: 17", "7", False),
        ("Answer: 7, not 8", "7", False),
        ("unyes", "Yes", False),
        ("", "7", False),
        (f"The image shows 7.\n{DEFAULT_MARKER} 7", "7", False),
    ],
)
def test_an_answer_without_marker_is_right_if_it_stands_last(text: str, reference: str, *, right: bool) -> None:
    assert count_right_without_marker([line(text, reference)]) == (int(right), 1)


def test_a_text_that_was_cut_off_is_not_known_to_end_with_its_answer() -> None:
    assert count_right_without_marker([line("It is a 7", "7", finish="length")]) == (0, 1)


def test_counts_over_all_samples_those_with_marker_included() -> None:
    lines = [line("Answer: 1", "1"), line("Answer: 2", "1"), line(f"{DEFAULT_MARKER} 1", "1")]
    assert count_right_without_marker(iter(lines)) == (1, 3)
    assert count_right_without_marker([]) == (0, 0)


def result(name: str, texts: list[tuple[str, str]]) -> Result:
    header = Header(run="demo-0123456789", eval=name, judge=JudgeIdentity(line=JUDGE_LINE, kind="exact"))
    return summarise([line(text, reference, number=index) for index, (text, reference) in enumerate(texts)], header)


@pytest.fixture(scope="module")
def drawn() -> str:
    return draw_comparison(
        result("base", [("Answer: 7", "7"), ("Answer: 7", "7"), ("Answer: 8", "7"), ("Answer: 9", "7")]),
        result("adapter", [(f"{DEFAULT_MARKER} 7", "7")] * 3 + [("Answer: 7", "7")]),
        base_right_without_marker=(2, 4),
        places={"store": "./tandem-store", "adapter": "./tandem-store/runs/adapter"},
    )


def row(drawn: str, name: str) -> list[str]:
    (found,) = [text for text in drawn.splitlines() if text.startswith(name)]
    return found.removeprefix(name).split()


def test_shows_base_and_adapter_side_by_side_with_interval_and_number(drawn: str) -> None:
    cells = row(drawn, "marker rate")
    assert (cells[0], cells[3:5]) == ("0.000", ["of", "4"])
    assert cells[5] == "0.750"
    assert row(drawn, "exact match, closed questions")[5] == "1.000"
    assert row(drawn, "exact match, open questions")[5] == "0.500"


def test_a_figure_over_nothing_is_not_shown_as_zero(drawn: str) -> None:
    assert row(drawn, "BERTScore F1 of what was answered")[:3] == ["nothing", "to", "measure"]


def test_says_how_often_the_base_was_right_without_the_marker(drawn: str) -> None:
    assert "right answer without the marker to 2 of 4 questions" in drawn


def test_names_the_judge_once_and_passes_warnings_on(drawn: str) -> None:
    assert drawn.count(JUDGE_LINE) == 1
    assert result("base", [("Answer: 7", "7")]).warnings[0] in draw_comparison(
        result("base", [("Answer: 7", "7")]),
        result("adapter", [("Answer: 7", "7")]),
        base_right_without_marker=(1, 1),
        places={},
    )


def test_says_where_everything_lies_and_what_to_try_next(drawn: str) -> None:
    assert "  adapter  ./tandem-store/runs/adapter" in drawn
    assert "  store    ./tandem-store\n" in drawn
    assert "jobs/demo.yaml" in drawn
    assert "docs/concepts.md" in drawn
