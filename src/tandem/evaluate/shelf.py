"""Parts in the store: each execution writes its own, and looks for those that earlier ones left whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError

from tandem.errors import BadData
from tandem.evaluate.parts import Kept, Part
from tandem.evaluate.records import EvalSample, Prediction, Record, read_jsonl
from tandem.store import AlreadyThere, Corrupt, NotThere, Store
from tandem.store.files import digest_of
from tandem.store.parallel import in_parallel

PARTS = "parts.json"
"""Written before an execution's first part: what all its parts were made with."""

READERS = 8
"""Parts that are read at once."""


@dataclass(frozen=True, kw_only=True)
class ShelfPlace:
    """Where one stage's executions keep their parts, and which of them is this one."""

    store: Store
    executions: str
    """Key prefix of all executions of the stage, ending in a slash."""
    execution: str
    """Name of this one."""


class PartsHeader(Record):
    """parts.json."""

    format: Literal["tandem.dev/parts/v1"] = "tandem.dev/parts/v1"
    made_with: dict[str, Any]
    """All that a text may depend on beside its sample and what is generated with it."""


class PartHeader(Record):
    """part-00000.json, written after part-00000.jsonl: a part without it is not whole."""

    format: Literal["tandem.dev/part/v1"] = "tandem.dev/part/v1"
    batches: tuple[int, ...]
    """Places in the plan."""
    size: int
    """Of the part, in bytes."""
    sha256: str
    made_by: dict[str, Any] = Field(default_factory=dict)
    """What its maker said of itself when it was whole: known only then, and no reason to leave the part alone."""


@dataclass(kw_only=True)
class StoreShelf:
    """A `parts.Shelf` in a store. Whatever is there is only read; this execution adds to its own folder."""

    place: ShelfPlace
    made_with: Mapping[str, Any]
    """JSON; parts that were made with anything else are left alone."""
    say: Callable[[str], None]
    """Told in one line what was found and cannot be used, and why."""
    _headed: bool = field(default=False, init=False)

    @property
    def header(self) -> bytes:
        """parts.json of this execution."""
        return PartsHeader(made_with=dict(self.made_with)).model_dump_json(indent=2).encode() + b"\n"

    def find(self, parts: Sequence[Part], samples: Sequence[EvalSample]) -> dict[int, Kept]:
        """See `parts.Shelf`; of several executions' parts the last's by name counts."""
        found: dict[int, Kept] = {}
        for execution, names in self._list_executions():
            wanted = [part for part in parts if part.number not in found and _header_name(part) in names]
            if not wanted or not self._is_made_alike(execution):
                continue

            def read(part: Part, execution: str = execution) -> Kept | None:
                return self._read(execution, part, samples)

            for part, kept in zip(wanted, in_parallel(read, wanted, READERS), strict=True):
                if kept is not None:
                    found[part.number] = kept
        return found

    def keep(self, part: Part, body: bytes, made_by: Mapping[str, Any]) -> dict[str, bytes]:
        """See `parts.Shelf`; the part is in the store before its header is."""
        if not self._headed:
            self._put(PARTS, self.header)
            self._headed = True
        digest = digest_of(body)
        batches = tuple(batch.index for batch in part.batches)
        header = PartHeader(batches=batches, size=digest.size, sha256=digest.sha256, made_by=dict(made_by))
        described = header.model_dump_json().encode() + b"\n"
        self._put(part.name, body)
        self._put(_header_name(part), described)
        return {_header_name(part): described, PARTS: self.header}

    def _put(self, name: str, body: bytes) -> None:
        """Put an object, unless it is there already: an execution can be started a second time under its name."""
        key = f"{self.place.executions}{self.place.execution}/{name}"
        try:
            self.place.store.put_if_absent(key, body)
        except AlreadyThere:
            if self.place.store.get(key) != body:
                raise

    def _list_executions(self) -> Iterator[tuple[str, set[str]]]:
        """Executions with parts, the last by name first, and the names of their files."""
        found: dict[str, set[str]] = {}
        for entry in self.place.store.list(self.place.executions):
            execution, _, name = entry.key.removeprefix(self.place.executions).partition("/")
            found.setdefault(execution, set()).add(name)
        for execution in sorted(found, reverse=True):
            if PARTS in found[execution]:
                yield execution, found[execution]

    def _is_made_alike(self, execution: str) -> bool:
        key = f"{self.place.executions}{execution}/{PARTS}"
        try:
            theirs = PartsHeader.model_validate_json(self.place.store.get(key)).made_with
        except (ValidationError, Corrupt, NotThere):
            self.say(f"the parts of {execution} are not used: its {PARTS} cannot be read")
            return False
        ours = json.loads(self.header)["made_with"]
        differing = list(_differences(ours, theirs))
        if differing:
            self.say(f"the parts of {execution} are not used: they differ in {', '.join(differing[:5])}")
        return not differing

    def _read(self, execution: str, part: Part, samples: Sequence[EvalSample]) -> Kept | None:
        """A part as it was written; None, and said, if it is anything else."""
        prefix = f"{self.place.executions}{execution}/"
        with suppress(ValidationError, Corrupt, NotThere, BadData):
            header = PartHeader.model_validate_json(self.place.store.get(f"{prefix}{_header_name(part)}"))
            body = self.place.store.get(f"{prefix}{part.name}")
            digest = digest_of(body)
            predictions = read_jsonl(Prediction, body, where=f"{prefix}{part.name}")
            if (
                (header.size, header.sha256) == (digest.size, digest.sha256)
                and header.batches == tuple(batch.index for batch in part.batches)
                and [_sample_of(each) for each in predictions] == [samples[index] for index in part.samples]
            ):
                return Kept(body=body, predictions=tuple(predictions), execution=execution, made_by=header.made_by)
        self.say(f"{part.name} of {execution} is not used: it is damaged or of other samples; it is generated again")
        return None


def _header_name(part: Part) -> str:
    return part.name.removesuffix("l")


def _sample_of(prediction: Prediction) -> EvalSample:
    return EvalSample.model_validate({name: getattr(prediction, name) for name in EvalSample.model_fields})


def _differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}):
            yield from _differences(ours.get(name), theirs.get(name), f"{place}.{name}" if place else name)
    elif ours != theirs:
        yield place
