"""Several that do something at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Found = TypeVar("Found")


def race(works: Sequence[Callable[[], Found]]) -> list[Found]:
    """Start all at once, each in a thread of its own; what each returns, in their order."""
    line = Barrier(len(works))

    def run(work: Callable[[], Found]) -> Found:
        line.wait(timeout=60)
        return work()

    with ThreadPoolExecutor(max_workers=len(works)) as pool:
        return list(pool.map(run, works))
