"""How far a stage is, as its log lines say: `step 40/150`, `sample 12/300`, `judged 7/300`, `compared 128/300`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PROGRESS = re.compile(r"\b(step|sample|batch|judged|compared) (\d{1,15})/(\d{1,15})\b")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """So many of so many."""

    unit: str
    """step, sample, batch, judged or compared."""
    done: int
    total: int


def parse_progress(line: str) -> Progress | None:
    """The progress that a log line tells, or None for every other line."""
    found = _PROGRESS.search(line)
    if found is None:
        return None
    return Progress(unit=found[1], done=int(found[2]), total=int(found[3]))


def last_progress(lines: Iterable[str]) -> Progress | None:
    """The newest progress in a log, or None if no line tells any."""
    newest = None
    for line in lines:
        newest = parse_progress(line) or newest
    return newest


def add_progress(parts: Iterable[Progress]) -> Progress | None:
    """Progress of several pods that share one job, in the unit of the first; None if there is none."""
    known = list(parts)
    if not known:
        return None
    same = [part for part in known if part.unit == known[0].unit]
    return Progress(unit=known[0].unit, done=sum(part.done for part in same), total=sum(part.total for part in same))
