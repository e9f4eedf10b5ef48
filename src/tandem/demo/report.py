"""What is shown at the end of the demo: both models side by side, what was learnt, and where it all lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tandem.evaluate.extract import normalise
from tandem.evaluate.records import ScoreLine
from tandem.evaluate.result import Result
from tandem.evaluate.statistics import Metric

NEXT_STEPS = (
    "Change jobs/demo.yaml, for example train.lora.r or train.steps, and run it again: it becomes a Run of its own.",
    "Set limit: 50 in a Run file to see within seconds whether everything fits together.",
    "Read docs/concepts.md: LoRA, tiles, BERTScore, the judge, and the pitfalls that the checks catch.",
)


def count_right_without_marker(lines: Iterable[ScoreLine]) -> tuple[int, int]:
    """Count the samples whose text has no marker but ends with the reference answer; of how many samples.

    Case, white space and final punctuation do not matter; the answer must begin at a word's beginning.
    """
    counted = list(lines)
    return sum(_is_right_without_marker(line) for line in counted), len(counted)


def _is_right_without_marker(line: ScoreLine) -> bool:
    if line.markers or line.status == "truncated":
        return False
    text, reference = normalise(line.reasoning), normalise(line.reference_answer)
    before = text.removesuffix(reference)
    return text.endswith(reference) and not before[-1:].isalnum()


def draw_comparison(
    base: Result, adapter: Result, *, base_right_without_marker: tuple[int, int], places: Mapping[str, str]
) -> str:
    """Draw the figures of base and adapter as text, with what they mean, where everything lies and what to try next.

    base_right_without_marker is (count, samples), as count_right_without_marker returns it; places maps what lies
    somewhere to where, in the order to be shown.
    """
    count, samples = base_right_without_marker
    parts = [
        _draw_figures(base, adapter),
        "\n".join(
            [
                f"The base gave the right answer without the marker to {count} of {samples} questions. Nobody asked",
                "it for the marker before: what it gains there is the format, the rest of the difference is the task.",
            ]
        ),
        "\n".join(dict.fromkeys([base.judge.line, adapter.judge.line])),
        "\n".join(f"{warning}" for warning in dict.fromkeys([*base.warnings, *adapter.warnings])),
        "Where everything lies:\n" + _draw_pairs(places),
        "What to try next:\n" + "\n".join(f"  - {step}" for step in NEXT_STEPS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _draw_figures(base: Result, adapter: Result) -> str:
    rows = [("", "base", "adapter")]
    for name, before, after in zip(_NAMES, _pick_metrics(base), _pick_metrics(adapter), strict=True):
        rows.append((name, _draw_metric(before), _draw_metric(after)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}".rstrip() for name, before, after in rows
    )


_NAMES = (
    "marker rate",
    "accuracy, all questions",
    "accuracy, closed questions",
    "accuracy, open questions",
    "exact match, closed questions",
    "exact match, open questions",
    "BERTScore F1 of what was answered",
    "BERTScore F1, missing answers as 0",
    "original's view: accuracy",
    "original's view: BERTScore F1",
)


def _pick_metrics(result: Result) -> tuple[Metric, ...]:
    figures, original = result.metrics, result.original
    return (
        figures.marker_rate,
        figures.accuracy.all,
        figures.accuracy.closed,
        figures.accuracy.open,
        figures.exact.closed,
        figures.exact.open,
        figures.bertscore_f1.answered,
        figures.bertscore_f1.missing_as_zero,
        original.closed_accuracy,
        original.bertscore_f1,
    )


def _draw_metric(metric: Metric) -> str:
    if metric.value is None:
        return "nothing to measure"
    interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{metric.value:.3f}{interval} of {metric.n}"


def _draw_pairs(places: Mapping[str, str]) -> str:
    width = max((len(name) for name in places), default=0)
    return "\n".join(f"  {name:<{width}}  {place}" for name, place in places.items())
