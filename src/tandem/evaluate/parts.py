"""Texts come in whole batches and are written in parts while generation goes on, whoever makes them, in any order.

A part is a fixed group of batches, planned like these from all samples: it is written whole or not at all, and holds
the same samples under the same name whatever was broken off before. So a restart makes only the parts that are
missing, and what it ends with are the very files that an undisturbed attempt writes. Where a text depends on what it
is generated with (in bfloat16), it is generated with the same batch again, or in packed generation with the same part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tandem.evaluate.batches import Batch
from tandem.evaluate.records import EvalSample, Prediction, to_jsonl
from tandem.store.files import typed_os_errors


@dataclass(frozen=True, kw_only=True)
class Part:
    """Batches whose predictions are written together."""

    number: int
    batches: tuple[Batch, ...]

    @property
    def name(self) -> str:
        """Its file, one prediction a line."""
        return f"part-{self.number:05d}.jsonl"

    @property
    def samples(self) -> tuple[int, ...]:
        """Indexes of its samples in the evaluation, ascending: the order of its lines."""
        return tuple(sorted(index for batch in self.batches for index in batch.samples))


def is_part(name: str) -> bool:
    """Whether a file of an execution holds predictions."""
    return name.startswith("part-") and name.endswith(".jsonl")


def plan_parts(batches: Sequence[Batch], *, least_samples: int) -> tuple[Part, ...]:
    """Group a shard's batches, in their order, so that each part but the last has at least so many samples."""
    groups: list[list[Batch]] = []
    size = least_samples
    for batch in batches:
        if size >= least_samples:
            groups.append([])
            size = 0
        groups[-1].append(batch)
        size += len(batch.samples)
    return tuple(Part(number=number, batches=tuple(group)) for number, group in enumerate(groups))


class TextMaker(Protocol):
    """Whoever makes texts: a model here, a server elsewhere."""

    @property
    def name(self) -> str:
        """Which engine it is: parts of another one are not gone on with."""
        ...

    @property
    def least_samples(self) -> int:
        """Samples (count) of a part: what is lost at most when an attempt is killed, against objects in the store."""
        ...

    def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, Sequence[Prediction]]]:
        """Each batch of these parts once, as soon as it is whole, in any order; predictions in its samples' order."""
        ...

    def describe(self) -> dict[str, Any]:
        """What of it is to be recorded beside its name (JSON): how it made what it made last."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A part that an earlier execution wrote."""

    body: bytes
    predictions: tuple[Prediction, ...]
    execution: str
    made_by: Mapping[str, Any]
    """What its maker said of itself."""


class Shelf(Protocol):
    """Where parts outlive the process that made them."""

    def find(self, parts: Sequence[Part], samples: Sequence[EvalSample]) -> Mapping[int, Kept]:
        """Parts that can be gone on with, by their numbers, each verified; samples are all of the evaluation."""
        ...

    def keep(self, part: Part, body: bytes, made_by: Mapping[str, Any]) -> Mapping[str, bytes]:
        """Keep a part for good, and return what belongs beside it in the execution's own files, by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a generation is, what earlier executions did included."""

    batches: int
    batches_total: int
    samples: int
    samples_total: int


@dataclass(kw_only=True)
class Written:
    """All parts of a shard, in files."""

    predictions: list[Prediction] = field(default_factory=list)
    """Part by part."""
    reused: dict[str, str] = field(default_factory=dict)
    """A part's file -> the execution that it was taken from."""
    made_alike: bool = True
    """Whether the makers of all parts, those of earlier executions too, say the same of themselves."""


def write_parts(
    maker: TextMaker,
    parts: Sequence[Part],
    samples: Sequence[EvalSample],
    *,
    shelf: Shelf | None,
    output: Path,
    report: Callable[[Progress], None],
) -> Written:
    """Write every part into the folder `output`: those on the shelf as they are, the others made and shelved at once.

    samples are the whole evaluation's. `report` is called after each batch, and first if anything was found.
    shelf None: nothing outlives this process. Raises whatever maker and shelf raise, and the typed errors of
    typed_os_errors for the folder; parts shelved by then stay there.
    """
    with typed_os_errors(str(output)):
        output.mkdir(parents=True, exist_ok=True)
    kept = {} if shelf is None else dict(shelf.find(parts, samples))
    done = {number: each.predictions for number, each in kept.items()}
    made_by = {number: each.made_by for number, each in kept.items()}
    counts = _Counts(parts)
    for part in parts:
        if part.number in kept:
            _write(part, kept[part.number].body, made_by[part.number], shelf, output)
            counts.add(*part.batches)
    if kept:
        report(counts.progress())
    missing = [part for part in parts if part.number not in kept]
    part_of = {batch.index: part for part in missing for batch in part.batches}
    waiting: dict[int, dict[int, Prediction]] = {part.number: {} for part in missing}
    for batch, predictions in maker.make(missing):
        part = part_of[batch.index]
        found = waiting[part.number]
        found.update(zip(batch.samples, predictions, strict=True))
        if len(found) == len(part.samples):
            done[part.number] = tuple(found[index] for index in part.samples)
            made_by[part.number] = maker.describe()
            _write(part, to_jsonl(done[part.number]), made_by[part.number], shelf, output)
            del waiting[part.number]
        counts.add(batch)
        report(counts.progress())
    if waiting:
        raise RuntimeError(f"{maker.name} made no texts for batches of {len(waiting)} parts")
    return Written(
        predictions=[prediction for part in parts for prediction in done[part.number]],
        reused={part.name: kept[part.number].execution for part in parts if part.number in kept},
        made_alike=all(each == made_by[parts[0].number] for each in made_by.values()),
    )


def _write(part: Part, body: bytes, made_by: Mapping[str, Any], shelf: Shelf | None, output: Path) -> None:
    beside = {} if shelf is None else shelf.keep(part, body, made_by)
    with typed_os_errors(str(output)):
        for name, content in {part.name: body, **beside}.items():
            (output / name).write_bytes(content)


class _Counts:
    def __init__(self, parts: Sequence[Part]) -> None:
        self._batches_total = sum(len(part.batches) for part in parts)
        self._samples_total = sum(len(part.samples) for part in parts)
        self._batches = self._samples = 0

    def add(self, *batches: Batch) -> None:
        self._batches += len(batches)
        self._samples += sum(len(batch.samples) for batch in batches)

    def progress(self) -> Progress:
        return Progress(
            batches=self._batches,
            batches_total=self._batches_total,
            samples=self._samples,
            samples_total=self._samples_total,
        )
