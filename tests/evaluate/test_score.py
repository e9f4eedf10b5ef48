"""Both views of a scoring, against the original's own output and against the lines that they come from."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.evaluate.bertscore import BertScore, BertScoreIdentity
from tandem.evaluate.encoder import BertScoreSettings
from tandem.evaluate.extract import DEFAULT_MARKER as M
from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_judge import FakeJudgeServer
from tandem.evaluate.figures import recompute_result, summarise
from tandem.evaluate.judge import ExactMatchJudge, Judge, JudgeSettings
from tandem.evaluate.judge_openai import OpenAIJudge, judge_identity
from tandem.evaluate.original import extract_as_original
from tandem.evaluate.records import Prediction, ScoreLine, Similarity, Verdict, read_jsonl, to_jsonl
from tandem.evaluate.result import Result, read_result, write_result
from tandem.evaluate.score import Scoring, score_predictions
from tandem.evaluate.statistics import Metric, StatisticsSettings
from tests.evaluate.tiny_roberta import write_tiny_roberta

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/chiron/evaluation.json").read_text(encoding="utf-8")
)


def prediction(sample_id: str, text: str, reference: str = "Yes.", **others: Any) -> Prediction:
    fields: dict[str, Any] = {
        "question": f"Question {sample_id}?",
        "images": ("x.png",),
        "answer_type": "OPEN",
        "finish": "stop",
        "prompt_tokens": 9,
        "new_tokens": 4,
        "tiles": 1,
    }
    return Prediction(sample_id=sample_id, text=text, reference_answer=reference, **(fields | others))


def scoring(using: JudgeSettings | None = None, **others: Any) -> Scoring:
    fields: dict[str, Any] = {"statistics": StatisticsSettings(resamples=100), "concurrency": 3}
    return Scoring(
        run="demo-0123456789",
        eval="held-out",
        marker=M,
        judge=judge_identity(using or JudgeSettings()),
        **(fields | others),
    )


def test_a_result_says_who_generated_in_an_endpoints_name_and_warns_of_two() -> None:
    texts = [
        prediction(str(number), f"{M} Yes.", served_model=model, fingerprint=mark, prompt_tokens=None, tiles=None)
        for number, (model, mark) in enumerate([("a", "1"), ("b", "1"), ("b", "1"), ("b", None)])
    ]
    lines, result = score_predictions(texts, scoring(preprocessing="server"), judge=ExactMatchJudge(), scorer=None)
    assert result.preprocessing == "server"
    assert [(one.model, one.fingerprint, one.texts) for one in result.texts_served_by] == [
        ("b", "1", 2),
        ("a", "1", 1),
        ("b", None, 1),
    ]
    assert "The texts came from 3 models or configurations: b (1), a (1), b (no fingerprint)." in result.warnings
    assert recompute_result(lines, result) == result
    assert read_result(write_result(result), where="result.json") == result
    assert (lines[0].tiles, lines[0].prompt_tokens) == (None, None)


def test_a_result_of_this_process_names_no_server() -> None:
    _, result = score_predictions([prediction("1", "x")], scoring(), judge=ExactMatchJudge(), scorer=None)
    assert (result.preprocessing, result.texts_served_by) == ("in-process", ())


class LengthScorer:
    """A stand-in for BERTScore: the ratio of lengths, and a baseline of 0.5."""

    identity = BertScoreIdentity(
        model="lengths", layer=1, revision="none", hash="lengths", bert_score_version="none", baseline=0.5
    )

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
        ratios = [min(len(a), len(r)) / max(len(a), len(r), 1) for a, r in zip(answers, references, strict=True)]
        return [Similarity(f1=ratio, rescaled=(ratio - 0.5) / 0.5) for ratio in ratios]


class ScriptedJudge:
    """Gives the verdict that a prediction's own words ask for, and counts its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        self.asked.append(prediction)
        if "unclear" in prediction:
            return Verdict(verdict="unscored", reason="unparseable: the reply is no verdict", reply="hm")
        return Verdict(verdict="right" if "good" in prediction else "wrong", reply="said")

    def close(self) -> None:
        """There is nothing to close."""


def score(*predictions: Prediction, judge: Judge | None = None) -> tuple[list[ScoreLine], Result]:
    return score_predictions(predictions, scoring(), judge=judge or ScriptedJudge(), scorer=LengthScorer())


def value_and_n(metric: Metric) -> Any:
    return (metric.value, metric.n)


def is_known(request: Any, replies: dict[str, str]) -> bool:
    """Whether the original's script asked about this answer too (ours asks about the last marker's as well)."""
    return any(request["messages"][0]["content"].endswith(f"\n{text}") for text in replies)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ScoreLine], Result, list[Any]]:
    samples = GOLDEN["samples"]
    tiny = BertScore(
        BertScoreSettings(model=str(write_tiny_roberta(tmp_path_factory.mktemp("tiny"))), layer=GOLDEN["num_layers"])
    )
    entries = {entry["id"]: entry for entry in GOLDEN["entries"]}
    replies = {
        f"Model's answer: {entries[one['id']]['answer']}\nCorrect answer: {one['reference']}": one["reply"]
        for one in samples
        if one["id"] in entries
    }

    def reply(request: Any) -> FakeReply:
        content = request["messages"][0]["content"]
        (match,) = [text for text in replies if content.endswith(f"\n{text}")]
        return FakeReply(content=replies[match])

    with FakeJudgeServer(
        lambda request: reply(request) if is_known(request, replies) else FakeReply(content="No")
    ) as server:
        using = JudgeSettings(kind="openai", base_url=server.base_url, model="m", protocol="original")
        predictions = [
            prediction(
                one["id"],
                one["text"],
                one["reference"],
                answer_type=one["answer_type"],
                finish=one["finish"],
            )
            for one in samples
        ]
        lines, result = score_predictions(
            predictions, scoring(using), judge=OpenAIJudge(settings=using, key="k"), scorer=tiny
        )
        return lines, result, server.requests


class TestAgainstTheOriginal:
    """`judge.protocol: original` on the golden texts and replies gives what the original's script gave."""

    def test_the_printed_figures_are_the_same(self, scored: tuple[list[ScoreLine], Result, list[Any]]) -> None:
        original = scored[1].original
        assert value_and_n(original.closed_accuracy) == (
            pytest.approx(GOLDEN["closed_accuracy"]),
            GOLDEN["counted"],
        )
        assert original.bertscore_f1.value == pytest.approx(GOLDEN["bertscore_f1"], abs=2e-6)
        assert original.bertscore_f1.n == GOLDEN["counted"]

    def test_each_sample_is_the_same(self, scored: tuple[list[ScoreLine], Result, list[Any]]) -> None:
        views = {line.sample_id: line.original for line in scored[0] if line.original}
        assert list(views) == [entry["id"] for entry in GOLDEN["entries"]]
        for entry in GOLDEN["entries"]:
            view = views[entry["id"]]
            assert (view.reasoning, view.answer) == (entry["reasoning"], entry["answer"])
            assert (view.verdict.verdict == "right") == entry["correct"]
            assert view.bertscore is not None
            assert view.bertscore.f1 == pytest.approx(entry["f1"], abs=2e-6)

    def test_the_calls_have_the_originals_shape(self, scored: tuple[list[ScoreLine], Result, list[Any]]) -> None:
        shapes = [
            {
                "keys": sorted(request),
                "temperature": request["temperature"],
                "roles": [message["role"] for message in request["messages"]],
                "has_question": "Question" in request["messages"][0]["content"],
            }
            for request in scored[2]
        ]
        assert [shape for shape in shapes if shape not in GOLDEN["calls"]] == []

    def test_the_honest_view_counts_what_the_original_skips(
        self, scored: tuple[list[ScoreLine], Result, list[Any]]
    ) -> None:
        result = scored[1]
        assert result.samples.model_dump() == {
            "total": 17,
            "answered": 11,
            "no_marker": 2,
            "several_markers": 3,
            "empty": 2,
            "truncated": 2,
            "unscored": 0,
        }
        assert result.metrics.accuracy.all.n == 17
        assert (result.metrics.accuracy.all.value or 0) < (result.original.closed_accuracy.value or 0)


class TestTheHonestView:
    def test_a_missing_answer_is_wrong_and_no_call_is_made_for_it(self) -> None:
        judge = ScriptedJudge()
        _, result = score(
            prediction("1", f"a {M} good"),
            prediction("2", "good but unmarked"),
            prediction("3", ""),
            prediction("4", "good", finish="length"),
            judge=judge,
        )
        assert judge.asked == ["good"]
        assert value_and_n(result.metrics.accuracy.all) == (0.25, 4)
        assert value_and_n(result.metrics.marker_rate) == (0.25, 4)

    def test_unscored_samples_are_reported_apart_with_their_reasons(self) -> None:
        _, result = score(prediction("1", f"{M} good"), prediction("2", f"{M} unclear"), prediction("3", "x"))
        assert value_and_n(result.metrics.accuracy.all) == (0.5, 2)
        assert result.samples.unscored == 1
        assert result.unscored == {"unparseable": 1}
        assert any("1 of 3 samples have no verdict" in warning for warning in result.warnings)

    def test_closed_and_open_questions_are_told_apart_by_the_files_type(self) -> None:
        _, result = score(
            prediction("1", f"{M} good", answer_type="CLOSED"),
            prediction("2", f"{M} bad", answer_type="OPEN"),
            prediction("3", f"{M} good", answer_type="OPEN"),
        )
        accuracy = result.metrics.accuracy
        assert (value_and_n(accuracy.closed), value_and_n(accuracy.open)) == ((1.0, 1), (0.5, 2))
        assert any("whose answer is yes or no: 2." in warning for warning in result.warnings)

    def test_exact_match_is_over_all_samples_whatever_the_judge_says(self) -> None:
        _, result = score(prediction("1", f"{M} yes"), prediction("2", f"{M} unclear"), prediction("3", "Yes"))
        assert value_and_n(result.metrics.exact.all) == (pytest.approx(1 / 3), 3)

    def test_bertscore_is_over_answered_and_with_missing_as_zero(self) -> None:
        _, result = score(prediction("1", f"{M} 1234", "12345678"), prediction("2", "1234", "12345678"))
        f1 = result.metrics.bertscore_f1
        assert value_and_n(f1.answered) == (0.5, 1)
        assert value_and_n(f1.missing_as_zero) == (0.25, 2)
        assert value_and_n(f1.rescaled) == (0.0, 1)

    def test_without_a_scorer_bertscore_has_no_value(self) -> None:
        _, result = score_predictions([prediction("1", f"{M} Yes")], scoring(), judge=ExactMatchJudge(), scorer=None)
        assert result.bertscore is None
        assert value_and_n(result.metrics.bertscore_f1.missing_as_zero) == (None, 0)
        assert value_and_n(result.original.bertscore_f1) == (None, 0)
        assert result.metrics.accuracy.all.value == 1.0

    def test_without_predictions_no_metric_has_a_value(self) -> None:
        _, result = score()
        assert value_and_n(result.metrics.marker_rate) == (None, 0)
        assert result.samples.total == 0

    def test_few_cases_bring_a_warning_and_enough_do_not(self) -> None:
        few = [prediction(str(number), f"{M} good", "ref", case_id=str(number // 2)) for number in range(58)]
        enough = [*few, prediction("58", f"{M} good", "ref"), prediction("59", f"{M} bad", "ref")]
        assert score(*few)[1].warnings[0].startswith("Few cases in all: 29.")
        assert score(*enough)[1].warnings == ()
        assert score(*enough)[1].cases == 31

    def test_a_samples_own_id_is_not_taken_for_anothers_case(self) -> None:
        assert score(prediction("1", f"{M} good", case_id="2"), prediction("2", f"{M} good"))[1].cases == 2


class TestTheOriginalsView:
    def test_where_its_answer_differs_it_is_judged_on_its_own(self) -> None:
        judge = ScriptedJudge()
        (line,), result = score(prediction("1", f"a {M} good {M} bad"), judge=judge)
        assert sorted(judge.asked) == ["bad", "good"]
        assert (line.answer, line.verdict.verdict) == ("bad", "wrong")
        assert line.original is not None
        assert (line.original.answer, line.original.verdict.verdict) == ("good", "right")
        assert result.original.closed_accuracy.value == 1.0

    def test_an_answer_cut_off_by_the_limit_counts_there_alone(self) -> None:
        (line,), result = score(prediction("1", f"a {M} good and", finish="length"))
        assert (line.status, line.verdict) == ("truncated", Verdict(verdict="wrong", reason="truncated"))
        assert result.metrics.accuracy.all.value == 0.0
        assert result.original.closed_accuracy.value == 1.0

    def test_every_deviation_is_listed(self) -> None:
        deviations = score(prediction("1", f"{M} unclear"))[1].original.deviations
        assert [text.split(" ")[0] for text in deviations] == ["Verdicts", "1", "BERTScore"]

    def test_the_originals_own_protocol_judge_and_encoder_leave_the_wording_and_the_cache(self) -> None:
        using = JudgeSettings(
            kind="openai", base_url="https://api.deepseek.com/", model="deepseek-chat", protocol="original"
        )
        scorer = LengthScorer()
        scorer.identity = scorer.identity.model_copy(update={"model": "roberta-large", "layer": 17})
        _, result = score_predictions(
            [prediction("1", f"{M} good")], scoring(using), judge=ScriptedJudge(), scorer=scorer
        )
        assert len(result.original.deviations) == 2
        assert "wording" in result.original.deviations[0]
        assert "kept and used again" in result.original.deviations[1]

    def test_what_generate_did_otherwise_is_listed_first(self) -> None:
        given_ = scoring(generation_deviations=("At most 6 tiles a sample; the original allows 12 an image.",))
        _, result = score_predictions([], given_, judge=ScriptedJudge(), scorer=None)
        assert result.original.deviations[0].startswith("At most 6 tiles")
        assert any("prints 0" in text for text in result.original.deviations)

    def test_a_text_without_the_marker_is_passed_over(self) -> None:
        assert extract_as_original("no marker") is None
        assert extract_as_original(f" a {M} b {M} c") == ("a", "b")
        assert score(prediction("1", "good"))[0][0].original is None


texts = st.sampled_from(
    [
        f"a {M} good",
        f"{M} unclear",
        f"{M} bad {M} good",
        f"{M} unclear {M} bad",
        "good",
        "",
        f"x {M}",
        f"{M} yes.",
        f"{M} {M}",
    ]
)
many = st.lists(
    st.tuples(
        texts,
        st.sampled_from(["Yes.", "good", "a longer reference"]),
        st.sampled_from(["OPEN", "CLOSED"]),
        st.sampled_from(["stop", "stop", "length"]),
        st.sampled_from([None, "case a", "case b"]),
    ),
    max_size=40,
)


def as_predictions(rows: list[tuple[str, str, str, str, str | None]]) -> list[Prediction]:
    return [
        prediction(str(number), text, reference, answer_type=kind, finish=finish, case_id=case)
        for number, (text, reference, kind, finish, case) in enumerate(rows)
    ]


@settings(deadline=None, max_examples=60)
@given(many, st.randoms(use_true_random=False))
def test_every_figure_comes_back_from_the_lines_alone_in_any_order(
    rows: list[tuple[str, str, str, str, str | None]], shuffler: random.Random
) -> None:
    lines, result = score(*as_predictions(rows))
    stored = read_result(write_result(result), where="result.json")
    read = read_jsonl(ScoreLine, to_jsonl(lines), where="scores.jsonl")
    shuffler.shuffle(read)
    assert stored == result
    assert recompute_result(read, stored) == result
    assert write_result(summarise(read, result.header())) == write_result(result)


@settings(deadline=None, max_examples=60)
@given(many)
def test_no_sample_is_lost_and_none_counted_twice(rows: list[tuple[str, str, str, str, str | None]]) -> None:
    predictions = as_predictions(rows)
    lines, result = score(*predictions)
    counts, metrics = result.samples, result.metrics
    assert [line.sample_id for line in lines] == [one.sample_id for one in predictions]
    assert counts.total == counts.answered + counts.no_marker + counts.empty + counts.truncated == len(rows)
    assert counts.unscored == sum(result.unscored.values()) <= counts.answered
    assert metrics.accuracy.all.n == counts.total - counts.unscored
    assert metrics.accuracy.closed.n + metrics.accuracy.open.n == metrics.accuracy.all.n
    assert metrics.exact.all.n == metrics.marker_rate.n == metrics.bertscore_f1.missing_as_zero.n == counts.total
    assert metrics.bertscore_f1.answered.n == counts.answered
    assert result.original.bertscore_f1.n == round((metrics.marker_rate.value or 0) * counts.total)


def test_result_json_has_the_documented_shape() -> None:
    _, result = score(prediction("1", f"{M} good"))
    body = json.loads(write_result(result))
    assert body["schema"] == "tandem.dev/result/v1"
    assert (body["run"], body["eval"]) == ("demo-0123456789", "held-out")
    assert sorted(body["samples"]) == sorted(
        ["total", "answered", "no_marker", "several_markers", "empty", "truncated", "unscored"]
    )
    assert sorted(body["metrics"]) == ["accuracy", "bertscore_f1", "exact", "marker_rate"]
    assert sorted(body["metrics"]["accuracy"]) == sorted(body["metrics"]["exact"]) == ["all", "closed", "open"]
    assert sorted(body["metrics"]["bertscore_f1"]) == ["answered", "missing_as_zero", "rescaled"]
    assert sorted(body["metrics"]["marker_rate"]) == ["high", "low", "n", "value"]
    assert sorted(body["original"]) == ["bertscore_f1", "closed_accuracy", "deviations"]
    assert body["judge"]["line"] == "Judge: exact match after normalisation, offline. No model has judged any answer."


@pytest.mark.parametrize("body", [b"", b"{}", b'{"schema": "tandem.dev/result/v2"}', b"\xff"])
def test_another_file_is_no_result(body: bytes) -> None:
    with pytest.raises(BadData, match=r"r\.json"):
        read_result(body, where="r.json")
