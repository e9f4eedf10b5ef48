"""A training or validation set, ready to be planned: every sample checked and measured, what is left out named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.model.images import probe_image
from tandem.model.prompt import Tokenizer
from tandem.train.annotations import BadSample, SampleRef, scan_samples
from tandem.train.meta import read_meta
from tandem.train.ranks import Ranks
from tandem.train.samples import Length, ReadingRules, measure_length

MAX_FAULTS = 100
"""More are not listed; their number is."""
_MOST_BAD = 10_000
"""Unusable lines that are noted beyond those that may be left out: a file of another kind has one in a few bytes."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How many samples may be left out."""

    too_long: int = 0
    bad: int = 0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The samples of a set in their order, each with its length, and those that were left out."""

    samples: tuple[SampleRef, ...]
    lengths: tuple[Length, ...]
    """One for each sample."""
    too_long: tuple[Fault, ...]
    """One for each line that was left out for its length."""
    bad: tuple[tuple[Fault, ...], ...]
    """Everything that is wrong with each line that was left out as unreadable."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over what decides the order and layout of batches: a resumed training must find it again."""
        lines = [
            [sample.dataset, sample.line, length.tokens, length.labelled]
            for sample, length in zip(self.samples, self.lengths, strict=True)
        ]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def read_corpus(
    meta: Path,
    tokenizer: Tokenizer,
    *,
    rules: ReadingRules,
    tolerance: Tolerance,
    limit: int | None = None,
    ranks: Ranks | None = None,
    threads: int = 1,
) -> Corpus:
    """Read, check and measure a set; the ranks share the images among them, and all must call it.

    limit keeps the first so many lines. Raises BadData, naming file and line, if more samples would be left out than
    tolerated, or if none is left; Unavailable if the file system fails.
    """
    ranks = ranks or Ranks()
    found = list(_until_hopeless(islice(scan_samples(read_meta(meta), template=rules.template), limit), tolerance))
    unique = {sample.place: sample for sample in found if isinstance(sample, SampleRef)}
    ours = list(unique.values())[ranks.rank :: ranks.world]
    measured: dict[str, Length | tuple[Fault, ...]] = {}
    for part in ranks.gather(_measure(ours, tokenizer, rules=rules, threads=threads)):
        measured |= part
    return _select(found, measured, meta=meta, rules=rules, tolerance=tolerance)


def _until_hopeless(samples: Iterable[SampleRef | BadSample], tolerance: Tolerance) -> Iterator[SampleRef | BadSample]:
    """The samples, up to so many unusable ones that the set is another than is meant."""
    bad = 0
    for sample in samples:
        yield sample
        bad += isinstance(sample, BadSample)
        if bad > tolerance.bad + _MOST_BAD:
            return


def _measure(
    samples: Sequence[SampleRef], tokenizer: Tokenizer, *, rules: ReadingRules, threads: int
) -> dict[str, Length | tuple[Fault, ...]]:
    """The length of each sample, or what is wrong with its images, by its place."""
    paths = list(dict.fromkeys(path for sample in samples for path in sample.images))
    sizes: dict[Path, tuple[int, int]] = {}
    broken: dict[Path, tuple[Fault, ...]] = {}

    def probe(path: Path) -> None:
        try:
            sizes[path] = probe_image(path, max_pixels=rules.max_pixels)
        except BadData as error:
            broken[path] = error.faults

    def measure(sample: SampleRef) -> Length | tuple[Fault, ...]:
        faults = [(fault, path) for path in sample.images for fault in broken.get(path, ())]
        if faults:
            return tuple(replace(fault, where=f"{sample.place}: {path}") for fault, path in faults)
        try:
            return measure_length(sample, tokenizer, [sizes[path] for path in sample.images], rules=rules)
        except BadData as error:
            return error.faults

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(probe, paths))
    return {sample.place: measure(sample) for sample in samples}


def _select(
    found: Sequence[SampleRef | BadSample],
    measured: dict[str, Length | tuple[Fault, ...]],
    *,
    meta: Path,
    rules: ReadingRules,
    tolerance: Tolerance,
) -> Corpus:
    kept: list[tuple[SampleRef, Length]] = []
    bad: dict[str, tuple[Fault, ...]] = {}
    too_long: dict[str, Fault] = {}
    for sample in found:
        if isinstance(sample, BadSample):
            bad[f"{sample.file}:{sample.line}"] = sample.faults
            continue
        length = measured[sample.place]
        if not isinstance(length, Length):
            bad[sample.place] = length
        elif length.tokens > rules.max_length:
            too_long[sample.place] = _over_length(sample, length, rules)
        else:
            kept.append((sample, length))
    faults: list[Fault] = []
    if len(bad) > tolerance.bad:
        faults += [fault for of_one in bad.values() for fault in of_one]
    if len(too_long) > tolerance.too_long:
        faults += too_long.values()
    if faults:
        raise BadData(_cap(faults, meta))
    if not kept:
        raise BadData(Fault(where=str(meta), what="no sample is left to use", remedy="See the samples left out."))
    return Corpus(
        samples=tuple(sample for sample, _ in kept),
        lengths=tuple(length for _, length in kept),
        too_long=tuple(too_long.values()),
        bad=tuple(bad.values()),
    )


def _over_length(sample: SampleRef, length: Length, rules: ReadingRules) -> Fault:
    return Fault(
        where=sample.place,
        what=f"{length.tokens} tokens, {length.image_tokens} of them for images, are more than {rules.max_length}",
        remedy="Raise train.maxLength, lower train.tiles.max, or allow it to be left out with train.dropTooLong.",
    )


def _cap(faults: list[Fault], meta: Path) -> list[Fault]:
    if len(faults) <= MAX_FAULTS:
        return faults
    rest = len(faults) - MAX_FAULTS
    last = Fault(where=str(meta), what=f"{rest} more faults like these", remedy="Correct these first.")
    return [*faults[:MAX_FAULTS], last]
