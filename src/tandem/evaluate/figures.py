"""Every figure of a result, computed from its score lines alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tandem.evaluate.extract import is_yes_or_no
from tandem.evaluate.original import original_view
from tandem.evaluate.records import ScoreLine
from tandem.evaluate.result import BertScoreF1, ByType, Header, Metrics, Result, Samples, ServedBy
from tandem.evaluate.statistics import (
    FEW_CASES,
    Metric,
    Observation,
    count_cases,
    mean_with_interval,
)

Value = Callable[[ScoreLine], float | None]
"""What one sample contributes to a mean; None: it is not in the denominator."""


def summarise(lines: Sequence[ScoreLine], header: Header) -> Result:
    """Compute the result of these lines; their order plays no part."""
    return Result(
        **dict(header),
        samples=_count(lines),
        cases=count_cases(line.case for line in lines),
        metrics=_metrics(lines, header),
        original=original_view(lines, header),
        unscored=_reasons(lines),
        judge_served_by=_served_by(lines),
        warnings=(*_warnings(lines), *_warnings_of_texts(header)),
    )


def recompute_result(lines: Sequence[ScoreLine], result: Result) -> Result:
    """Compute a result again from its lines; a result that nobody has touched comes out equal."""
    return summarise(lines, result.header())


def _count(lines: Sequence[ScoreLine]) -> Samples:
    statuses = Counter(line.status for line in lines)
    return Samples(
        total=len(lines),
        answered=statuses["answered"] + statuses["several_markers"],
        no_marker=statuses["no_marker"],
        several_markers=statuses["several_markers"],
        empty=statuses["empty"],
        truncated=statuses["truncated"],
        unscored=sum(line.verdict.verdict == "unscored" for line in lines),
    )


def _metrics(lines: Sequence[ScoreLine], header: Header) -> Metrics:
    def mean(value: Value, of: Iterable[ScoreLine] = lines, *, bounded: bool = True) -> Metric:
        observations = [Observation(case=line.case, value=number) for line in of if (number := value(line)) is not None]
        return mean_with_interval(observations, header.statistics, bounded=bounded)

    def by_type(value: Value) -> ByType:
        closed = [line for line in lines if line.answer_type == "CLOSED"]
        opened = [line for line in lines if line.answer_type == "OPEN"]
        return ByType(all=mean(value), closed=mean(value, closed), open=mean(value, opened))

    return Metrics(
        marker_rate=mean(lambda line: float(line.markers > 0)),
        accuracy=by_type(_correct),
        exact=by_type(lambda line: float(line.exact)),
        bertscore_f1=BertScoreF1(
            answered=mean(lambda line: line.bertscore.f1 if line.bertscore else None),
            missing_as_zero=mean(_f1_or_zero, lines if header.bertscore else ()),
            rescaled=mean(lambda line: line.bertscore.rescaled if line.bertscore else None, bounded=False),
        ),
    )


def _correct(line: ScoreLine) -> float | None:
    return None if line.verdict.verdict == "unscored" else float(line.verdict.verdict == "right")


def _f1_or_zero(line: ScoreLine) -> float:
    return line.bertscore.f1 if line.bertscore else 0.0


def _reasons(lines: Sequence[ScoreLine]) -> dict[str, int]:
    """Counts by the reason's first word, most frequent first, then by name."""
    reasons = Counter(
        (line.verdict.reason or "unknown").partition(":")[0] for line in lines if line.verdict.verdict == "unscored"
    )
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _served_by(lines: Sequence[ScoreLine]) -> tuple[ServedBy, ...]:
    verdicts = [line.verdict for line in lines] + [line.original.verdict for line in lines if line.original]
    served = Counter((one.served_model, one.fingerprint) for one in verdicts if one.reply is not None)
    ordered = sorted(served.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return tuple(ServedBy(model=model, fingerprint=mark, replies=count) for (model, mark), count in ordered)


def _warnings_of_texts(header: Header) -> list[str]:
    sources = header.texts_served_by
    if len(sources) < 2:
        return []
    named = [f"{one.model or 'one without a name'} ({one.fingerprint or 'no fingerprint'})" for one in sources[:5]]
    return [f"The texts came from {len(sources)} models or configurations: {', '.join(named)}."]


def _warnings(lines: Sequence[ScoreLine]) -> list[str]:
    warnings = []
    closed = [line for line in lines if line.answer_type == "CLOSED"]
    opened = [line for line in lines if line.answer_type == "OPEN"]
    for group, name in ((lines, "in all"), (closed, "with closed questions"), (opened, "with open questions")):
        cases = count_cases(line.case for line in group)
        said = name != "in all" and len(group) == len(lines)
        if 0 < cases < FEW_CASES and not said:
            warnings.append(f"Few cases {name}: {cases}. Below {FEW_CASES} the figures say little.")
    unscored = sum(line.verdict.verdict == "unscored" for line in lines)
    if unscored:
        warnings.append(f"{unscored} of {len(lines)} samples have no verdict and are not in the accuracy.")
    models = list(dict.fromkeys(served.model or "one without a name" for served in _served_by(lines)))
    if len(models) > 1:
        warnings.append(f"The judge's replies came from {len(models)} models: {', '.join(models[:5])}.")
    truncated = sum(line.status == "truncated" for line in lines)
    if truncated:
        warnings.append(f"{truncated} of {len(lines)} texts were cut off: consider more new tokens.")
    disguised = sum(is_yes_or_no(line.reference_answer) for line in opened)
    if disguised:
        warnings.append(
            f"Questions of type OPEN whose answer is yes or no: {disguised}. They count as the evaluation file "
            "types them."
        )
    return warnings
