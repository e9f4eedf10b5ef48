"""What the store knows of a Run, by one listing; what is written once is read once."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem.outcome import Outcome
from tandem.record.attempt import AttemptEnd, AttemptStart
from tandem.record.commit import Commit, read_commit
from tandem.record.document import parse_document
from tandem.store import NotThere, Store
from tandem.store.layout import EXIT, RunPlace
from tandem.store.manifest import MANIFEST


@dataclass(kw_only=True)
class StageRecords:
    """One stage's part of the store."""

    commit: Commit | None = None
    executions: dict[str, bool] = field(default_factory=dict)
    """Whether its manifest is there, by name."""
    starts: dict[int, AttemptStart] = field(default_factory=dict)
    ends: dict[int, AttemptEnd] = field(default_factory=dict)

    @property
    def open_starts(self) -> list[AttemptStart]:
        """Attempts of which it is not recorded how they ended."""
        return [start for number, start in sorted(self.starts.items()) if number not in self.ends]

    @property
    def last_number(self) -> int:
        """Number of the newest attempt; 0 if there was none."""
        return max([*self.starts, *self.ends], default=0)


@dataclass(kw_only=True)
class RunRecords:
    """Reads a Run's part of the store again and again."""

    store: Store
    place: RunPlace
    _commits: dict[str, Commit] = field(default_factory=dict)
    _starts: dict[str, AttemptStart] = field(default_factory=dict)
    _ends: dict[str, AttemptEnd] = field(default_factory=dict)

    def look(self, stages: Sequence[str]) -> dict[str, StageRecords]:
        """Every stage's records as they are now. Raises Corrupt for what tandem did not write."""
        keys = [entry.key for entry in self.store.list(self.place.prefix)]
        return {stage: self._look_at(stage, keys) for stage in stages}

    def read_exit(self, stage: str, execution: str) -> Outcome | None:
        """How an execution says that it ended; None if it was lost before it could say."""
        try:
            return Outcome(**json.loads(self.store.get(f"{self.place.execution(stage, execution)}{EXIT}")))
        except (NotThere, ValueError, TypeError):
            return None

    def _look_at(self, stage: str, keys: list[str]) -> StageRecords:
        found = StageRecords()
        if stage in self._commits or _has(keys, self.place.commit(stage)):
            if stage not in self._commits:
                self._commits[stage] = read_commit(self.store, self.place, stage)
            found.commit = self._commits[stage]
        executions = self.place.executions(stage)
        for key in _below(keys, executions):
            name, _, rest = key.removeprefix(executions).partition("/")
            found.executions[name] = found.executions.get(name, False) or rest == MANIFEST
        for key in _below(keys, self.place.attempts(stage)):
            if key.endswith("/start.json"):
                if key not in self._starts:
                    self._starts[key] = parse_document(AttemptStart, self.store.get(key), where=key)
                found.starts[self._starts[key].number] = self._starts[key]
            elif key.endswith("/attempt.json"):
                if key not in self._ends:
                    self._ends[key] = parse_document(AttemptEnd, self.store.get(key), where=key)
                found.ends[self._ends[key].number] = self._ends[key]
        return found


def _has(keys: list[str], key: str) -> bool:
    place = bisect_left(keys, key)
    return place < len(keys) and keys[place] == key


def _below(keys: list[str], prefix: str) -> list[str]:
    first = bisect_left(keys, prefix)
    last = bisect_left(keys, prefix[:-1] + chr(ord(prefix[-1]) + 1))
    return keys[first:last]
