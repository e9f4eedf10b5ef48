"""Run objects of a cluster as text for a terminal: a line each, or one of them whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tandem.report.text import draw_table

Object = dict[str, Any]
"""A Run object as the API server gives it."""

_HEADER = ("name", "phase", "stage", "attempt", "progress", "figures", "age")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def draw_runs(runs: Sequence[Object], *, now: float) -> str:
    """A line for each Run. `now`: seconds since the epoch."""
    return draw_table(_HEADER, [_draw_line(run, now) for run in runs])


def draw_status(run: Object) -> str:
    """What a Run's controller says of it: where it stands, what it waits for or died of, and its figures."""
    status, metadata = _status(run), run["metadata"]
    lines = [f"Run {metadata['namespace']}/{metadata['name']}: {_describe_phase(run)}"]
    where = describe_progress(run)
    rows = [
        ("id", status.get("runId")),
        ("attempt", where or None),
        ("job", (status.get("attempt") or {}).get("job")),
        ("message", status.get("message")),
        ("remedy", status.get("remedy")),
        ("result", status.get("result")),
        ("everything", status.get("folder")),
    ]
    lines += [f"{name + ':':<12}{value}" for name, value in rows if value]
    figures = status.get("metrics") or []
    if figures:
        lines += ["", _draw_figures(figures)]
    return "\n".join(lines)


def describe_progress(run: Object) -> str:
    """The attempt that is under way, or was the last, and how far it is; empty if there was none."""
    status = _status(run)
    attempt, progress = status.get("attempt"), status.get("progress")
    if attempt is None:
        return ""
    text = f"{attempt['stage']}, attempt {attempt['number']}"
    if progress is None:
        return text
    text += f": {progress['text']}"
    eta = progress.get("etaSeconds")
    return text if eta is None else f"{text}, about {describe_seconds(eta)} left"


def describe_seconds(seconds: float) -> str:
    """A duration in its largest whole unit: 45s, 12m, 3h, 9d."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{int(max(seconds, 0) // size)}{unit}"


def _draw_line(run: Object, now: float) -> tuple[str, ...]:
    status = _status(run)
    attempt, progress = status.get("attempt") or {}, status.get("progress") or {}
    created = datetime.fromisoformat(run["metadata"]["creationTimestamp"]).timestamp()
    return (
        run["metadata"]["name"],
        _describe_phase(run),
        attempt.get("stage", "-"),
        str(attempt.get("number", "-")),
        progress.get("text", "-"),
        status.get("figures", "-"),
        describe_seconds(now - created),
    )


def _describe_phase(run: Object) -> str:
    """The phase; what is wanted, where that is still to come; that nobody has looked at it yet."""
    status = _status(run)
    phase = str(status.get("phase") or "not looked at yet by a controller")
    if "deletionTimestamp" in run["metadata"]:
        return f"{phase}, being deleted"
    wanted = run["spec"].get("desired", "Active")
    is_coming = phase in ("Pending", "Running") and wanted != "Active"
    return f"{phase}, to be {wanted}" if is_coming else phase


def _draw_figures(figures: Sequence[Object]) -> str:
    rows = [
        (figure["evaluation"], figure["name"], f"{figure['value']:.3f}", _draw_interval(figure), _draw_count(figure))
        for figure in figures
    ]
    return draw_table(("evaluation", "figure", "value", "95 % interval", "n"), rows)


def _draw_interval(figure: Object) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "-" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def _draw_count(figure: Object) -> str:
    return "-" if figure.get("count") is None else str(figure["count"])


def _status(run: Object) -> Object:
    return run.get("status") or {}
