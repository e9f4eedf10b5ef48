"""The figures of a result that stand in short summaries, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAIN = "accuracy"
_PATHS = {
    "marker_rate": ("metrics", "marker_rate"),
    MAIN: ("metrics", "accuracy", "all"),
    "accuracy_closed": ("metrics", "accuracy", "closed"),
    "accuracy_open": ("metrics", "accuracy", "open"),
    "exact": ("metrics", "exact", "all"),
    "bertscore_f1": ("metrics", "bertscore_f1", "answered"),
    "bertscore_f1_missing_as_zero": ("metrics", "bertscore_f1", "missing_as_zero"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure with its 95 % interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    count: int


def list_figures(result: dict[str, Any]) -> list[Figure]:
    """The figures of a result.json that have a value: no data is not 0."""
    found = []
    for name, path in _PATHS.items():
        metric: Any = result
        for key in path:
            metric = metric[key]
        if metric["value"] is not None:
            found.append(
                Figure(name=name, value=metric["value"], low=metric["low"], high=metric["high"], count=metric["n"])
            )
    return found
