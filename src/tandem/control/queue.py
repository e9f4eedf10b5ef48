"""Which Runs are to be looked at, and when: each at most once at a time. Pure but for its lock; time is passed in."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class WorkQueue:
    """Names that are due; a name asked for again while it is worked on comes back afterwards."""

    _due: dict[str, float] = field(default_factory=dict)
    _heap: list[tuple[float, str]] = field(default_factory=list)
    _working: set[str] = field(default_factory=set)
    _again: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, due: float) -> None:
        """Ask for a name at a time, or earlier if it is asked for earlier already."""
        with self._lock:
            if name in self._working:
                self._again[name] = min(due, self._again.get(name, due))
            elif due < self._due.get(name, float("inf")):
                self._due[name] = due
                heapq.heappush(self._heap, (due, name))

    def take(self, now: float) -> str | None:
        """A name that is due, for this caller alone until `finish`; None if none is."""
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                due, name = heapq.heappop(self._heap)
                if self._due.get(name) == due:
                    del self._due[name]
                    self._working.add(name)
                    return name
            return None

    def finish(self, name: str) -> None:
        """Say that the work on a name is done."""
        with self._lock:
            self._working.discard(name)
            due = self._again.pop(name, None)
        if due is not None:
            self.add(name, due)

    def next_due(self) -> float | None:
        """When the next name is due; None if none is asked for."""
        with self._lock:
            return min(self._due.values(), default=None)

    def __len__(self) -> int:
        """Names that are asked for or worked on."""
        with self._lock:
            return len(self._due) + len(self._working)
