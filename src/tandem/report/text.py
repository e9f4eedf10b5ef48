"""A described Run as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandem.errors import BadData, Fault
from tandem.report.preprocessing import OPTION, describe_preprocessing, group_comparable, preprocessing_of

_FIGURES = (
    ("marker rate", ("metrics", "marker_rate")),
    ("accuracy, all", ("metrics", "accuracy", "all")),
    ("accuracy, closed", ("metrics", "accuracy", "closed")),
    ("accuracy, open", ("metrics", "accuracy", "open")),
    ("exact, all", ("metrics", "exact", "all")),
    ("exact, closed", ("metrics", "exact", "closed")),
    ("exact, open", ("metrics", "exact", "open")),
    ("BERTScore F1, answered", ("metrics", "bertscore_f1", "answered")),
    ("BERTScore F1, missing as 0", ("metrics", "bertscore_f1", "missing_as_zero")),
    ("BERTScore F1, rescaled", ("metrics", "bertscore_f1", "rescaled")),
    ("original's accuracy", ("original", "closed_accuracy")),
    ("original's BERTScore F1", ("original", "bertscore_f1")),
)
_COUNTS = ("total", "answered", "no_marker", "several_markers", "empty", "truncated", "unscored")


def draw_run(described: dict[str, Any], *, across_preprocessing: bool = False) -> str:
    """Stages and how their attempts ended, then every result, both views side by side.

    Results whose images and prompts were prepared otherwise stand in a table of their own, unless asked for.
    """
    parts = [
        f"Run {described['run']} (submitted {described['submittedAt']})",
        draw_table(("stage", "attempts", "state"), [_draw_stage(stage) for stage in described["stages"]]),
    ]
    scored = [entry for entry in described["results"] if entry["result"] is not None]
    groups = group_comparable([entry["result"] for entry in scored], across=across_preprocessing)
    for group in groups if scored else []:
        if len(groups) > 1:
            parts.append(f"{describe_preprocessing(preprocessing_of(scored[group[0]]['result']))}:")
        parts.append(draw_results([scored[index] for index in group]))
    if len(groups) > 1:
        parts.append(f"The tables are not to be compared; {OPTION} puts all in one.")
    parts.append(f"Everything lies in {described['location']}")
    return "\n\n".join(parts)


def draw_results(scored: list[dict[str, Any]]) -> str:
    """A column for each result; under the table who judged, what was compared, warnings and deviations."""
    titles = _name_columns(scored)
    columns: list[list[str]] = []
    notes: list[str] = []
    for title, entry in zip(titles, scored, strict=True):
        try:
            columns.append(_draw_column(entry["result"]))
            notes += _draw_notes(title, entry["result"])
        except (AttributeError, KeyError, TypeError, ValueError):
            where, what = f"{entry['location']}result.json", "is not a result that this version can draw"
            raise BadData(Fault(where=where, what=what, remedy="See it with `-o json`.")) from None
    ways = [preprocessing_of(entry["result"]) for entry in scored]
    marks = [("preprocessing", *ways)] if len(set(ways)) > 1 else []
    names = [*(name for name, _ in _FIGURES), *(f"samples, {name}" for name in _COUNTS)]
    return draw_table(("", *titles), [*marks, *zip(names, *columns, strict=True)]) + "\n\n" + "\n".join(notes)


def _draw_column(result: dict[str, Any]) -> list[str]:
    return [
        *(draw_metric(_find(result, path)) for _, path in _FIGURES),
        *(str(result["samples"][name]) for name in _COUNTS),
    ]


def _draw_notes(title: str, result: dict[str, Any]) -> list[str]:
    encoder = result["bertscore"]
    notes = [f"{title}: {result['judge']['line']}", *(f"{title}: {line}" for line in _describe_sources(result))]
    if encoder is not None:
        notes.append(f"{title}: BERTScore by {encoder['model']}, layer {encoder['layer']}")
    notes += [f"{title}: {reason}: {count} unscored" for reason, count in result["unscored"].items()]
    notes += [f"{title}: warning: {warning}" for warning in result["warnings"]]
    notes += [f"{title}: original's view: {deviation}" for deviation in result["original"]["deviations"]]
    return notes


def draw_metric(metric: dict[str, Any]) -> str:
    """A figure with its 95 % interval; a dash where there is nothing to measure."""
    if metric["value"] is None:
        return "-"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def draw_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their content, the first aligned left and the others right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _describe_sources(result: dict[str, Any]) -> list[str]:
    return [
        f"{source['texts']} texts by {source['model'] or 'a server that gives no name'}"
        + ("" if source["fingerprint"] is None else f" ({source['fingerprint']})")
        for source in result.get("texts_served_by", ())
    ]


def _draw_stage(stage: dict[str, Any]) -> tuple[str, str, str]:
    executions = stage["executions"]
    if stage["committed"] is not None:
        state = "committed"
    elif not executions:
        state = "waiting"
    else:
        outcome = executions[-1]["outcome"]
        state = "lost or running" if outcome is None else f"{outcome['code']}: {outcome['message'][:80]}"
    return stage["stage"], str(len(executions)), state


def _name_columns(scored: list[dict[str, Any]]) -> list[str]:
    names = [entry["eval"] for entry in scored]
    return [
        f"{entry['eval']} ({entry['score']})" if names.count(entry["eval"]) > 1 else entry["eval"] for entry in scored
    ]


def _find(result: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    value = result
    for key in path:
        value = value[key]
    return value
