"""The second stage of an evaluation: from predictions to score lines and a result; repeatable alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tandem.evaluate.bertscore import AnswerScorer
from tandem.evaluate.extract import Extraction, extract, is_exact
from tandem.evaluate.figures import summarise
from tandem.evaluate.judge import Item, Judge, JudgeIdentity, judge_all
from tandem.evaluate.original import extract_as_original
from tandem.evaluate.records import OriginalView, Prediction, ScoreLine, Similarity, Verdict
from tandem.evaluate.result import Header, Preprocessing, Result
from tandem.evaluate.served import list_sources
from tandem.evaluate.statistics import StatisticsSettings


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What a scoring is of, beside the predictions."""

    run: str
    eval: str
    marker: str
    judge: JudgeIdentity
    """Of the judge that is passed in: see judge_openai.judge_identity."""
    concurrency: int = 16
    """Calls to the judge under way at once."""
    max_failures: float | None = None
    """Answers that may stay without a verdict: below 1 a share, else a count; None: any number but all."""
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    preprocessing: Preprocessing = "in-process"
    """Who cut the images and wrote the prompts."""
    generation_deviations: tuple[str, ...] = ()
    """Where the texts were made otherwise than by the original script: tiles, token limit, template."""


@dataclass(frozen=True, kw_only=True)
class _Sample:
    prediction: Prediction
    ours: Extraction
    original: tuple[str, str] | None

    def texts(self) -> list[str]:
        """The answers to be judged: ours if it is complete, and the original's if it differs."""
        ours = [self.ours.answer or ""] if self.ours.complete else []
        original = [self.original[1]] if self.original else []
        return list(dict.fromkeys(ours + original))


def score_predictions(
    predictions: Sequence[Prediction],
    scoring: Scoring,
    *,
    judge: Judge,
    scorer: AnswerScorer | None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> tuple[list[ScoreLine], Result]:
    """Extract, judge and compare every prediction; one line each, in their order, and the result.

    A text without a complete answer is never judged for the honest view. What the original script would
    have taken as the answer is judged on its own where it differs from ours. Without a scorer there is no
    BERTScore. `report` is told now and then how many answers are judged, of how many. The judge is closed in the end.
    Raises Unavailable if it answers nobody or too few; see judge.judge_all. Scoring again then asks only about what
    the judge's cache does not hold.
    """
    samples = [_take_apart(prediction, scoring.marker) for prediction in predictions]
    items = [_item(sample, text) for sample in samples for text in sample.texts()]
    try:
        verdicts = judge_all(
            judge, items, concurrency=scoring.concurrency, max_failures=scoring.max_failures, report=report
        )
    finally:
        judge.close()
    similarities = _compare(items, scorer)
    lines = [_line(sample, verdicts, similarities) for sample in samples]
    header = Header(
        run=scoring.run,
        eval=scoring.eval,
        marker=scoring.marker,
        judge=scoring.judge,
        bertscore=scorer.identity if scorer else None,
        statistics=scoring.statistics,
        preprocessing=scoring.preprocessing,
        texts_served_by=list_sources(predictions) if scoring.preprocessing == "server" else (),
        generation_deviations=scoring.generation_deviations,
    )
    return lines, summarise(lines, header)


def _take_apart(prediction: Prediction, marker: str) -> _Sample:
    return _Sample(
        prediction=prediction,
        ours=extract(prediction.text, finish=prediction.finish, marker=marker),
        original=extract_as_original(prediction.text, marker),
    )


def _item(sample: _Sample, text: str) -> Item:
    asked = sample.prediction
    return Item(question=asked.question, reference=asked.reference_answer, prediction=text)


def _compare(items: Iterable[Item], scorer: AnswerScorer | None) -> Mapping[tuple[str, str], Similarity]:
    pairs = list(dict.fromkeys((item.prediction, item.reference) for item in items))
    if scorer is None or not pairs:
        return {}
    answers, references = zip(*pairs, strict=True)
    return dict(zip(pairs, scorer.score(answers, references), strict=True))


def _line(
    sample: _Sample,
    verdicts: Mapping[Item, Verdict],
    similarities: Mapping[tuple[str, str], Similarity],
) -> ScoreLine:
    asked, ours = sample.prediction, sample.ours
    answer = ours.answer if ours.complete else None

    def found(text: str) -> tuple[Verdict, Similarity | None]:
        return verdicts[_item(sample, text)], similarities.get((text, asked.reference_answer))

    missing = Verdict(verdict="wrong", reason=ours.status)
    verdict, similarity = (missing, None) if answer is None else found(answer)
    original = None
    if sample.original is not None:
        reasoning, text = sample.original
        judged, compared = found(text)
        original = OriginalView(reasoning=reasoning, answer=text, verdict=judged, bertscore=compared)
    return ScoreLine(
        **asked.model_dump(exclude={"text", "batch_halvings", "served_model", "fingerprint"}),
        markers=ours.markers,
        status=ours.status,
        reasoning=ours.reasoning,
        answer=ours.answer,
        exact=answer is not None and is_exact(answer, asked.reference_answer),
        verdict=verdict,
        bertscore=similarity,
        original=original,
    )
