"""Tiles, token lengths and steps of a training or validation set, from image sizes and texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tandem.check.base import Base
from tandem.check.images import ImageFacts
from tandem.check.report import Collector, Severity
from tandem.check.tokens import describe_lengths
from tandem.check.training import TrainingSet
from tandem.evaluate.prepare import BUDGET_RULES
from tandem.spec import TrainSpec
from tandem.train.annotations import SampleRef
from tandem.train.packing import count_steps
from tandem.train.samples import Length, ReadingRules, count_sample_tiles, measure_length

_PART = 64
"""Samples that a thread measures in one go: handing over a short one takes longer than measuring it."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Token lengths of a training set."""

    by_line: Mapping[tuple[Path, int], Length]
    too_long: int
    """Distinct lines over the length."""


def reading_rules(train: TrainSpec, base: Base) -> ReadingRules | None:
    """The rules by which training reads its samples; None while the model is not known."""
    if base.info is None:
        return None
    return ReadingRules(
        max_tiles=train.tiles.max,
        max_length=train.max_length,
        budget=BUDGET_RULES[train.tiles.rule],
        geometry=replace(base.info.geometry, thumbnail=train.tiles.thumbnail),
    )


def count_training_tiles(one: TrainingSet, images: Mapping[Path, ImageFacts], rules: ReadingRules) -> int:
    """Count all tiles of the set, thumbnails and repetitions included; samples with a bad image do not count."""
    return sum(
        sum(count_sample_tiles(sample, sizes, rules=rules))
        for sample in one.samples
        if (sizes := _sizes(sample, images)) is not None
    )


def check_lengths(
    one: TrainingSet,
    images: Mapping[Path, ImageFacts],
    base: Base,
    findings: Collector,
    *,
    rules: ReadingRules,
    allowed: int,
    cpu_count: int,
) -> Lengths | None:
    """Measure every sample and report those over the length; as warnings while they may be left out.

    None if the tokenizer is not known; what is wrong with it has a finding of its own.
    """
    if base.tokenizer is None:
        return None
    tokenizer = base.tokenizer

    def measure(sample: SampleRef) -> Length | None:
        sizes = _sizes(sample, images)
        return None if sizes is None else measure_length(sample, tokenizer, sizes, rules=rules)

    def measure_all(samples: Sequence[SampleRef]) -> list[tuple[SampleRef, Length | None]]:
        return [(sample, measure(sample)) for sample in samples]

    distinct = one.distinct
    parts = [distinct[start : start + _PART] for start in range(0, len(distinct), _PART)]
    with ThreadPoolExecutor(max_workers=max(1, cpu_count)) as pool:  # the tokenizer runs without the interpreter's lock
        measured = [found for part in pool.map(measure_all, parts) for found in part]
    too_long = [(sample, length) for sample, length in measured if length and length.tokens > rules.max_length]
    severity = Severity.FAULT if len(too_long) > allowed else Severity.WARNING
    for sample, length in too_long:
        findings.add(
            "sample-too-long",
            where=sample.place,
            what=f"{length.tokens} tokens, {length.image_tokens} of them image tokens, are more than "
            f"train.maxLength ({rules.max_length})",
            remedy="Raise maxLength, lower tiles.max, shorten the text, or allow some to be left out (dropTooLong).",
            cause="data",
            severity=severity,
        )
    by_line = {(sample.file, sample.line): length for sample, length in measured if length is not None}
    return Lengths(by_line=by_line, too_long=len(too_long))


def check_steps(one: TrainingSet, lengths: Lengths | None, train: TrainSpec, findings: Collector) -> dict[str, Any]:
    """Compare the samples with the global batch; returns samples, samples an epoch and steps."""
    usable = len(one.samples)
    if lengths is not None:
        fitting = [lengths.by_line.get((sample.file, sample.line)) for sample in one.samples]
        usable = sum(length is not None and length.tokens <= train.max_length for length in fitting)
    size = train.batch.global_size
    if usable < size:
        findings.add(
            "fewer-samples-than-batch",
            where="spec.train.batch.globalSize",
            what=f"{usable} usable samples do not fill one global batch of {size}: a step takes some more than once",
            remedy="Lower globalSize, add samples, or raise the Run's limit; fine for a first small run.",
            severity=Severity.WARNING,
        )
    if train.epochs is None and train.steps is None:  # a fault of the Run file
        return {"samples": usable}
    steps = count_steps(usable, global_size=size, epochs=train.epochs, steps=train.steps)
    epochs = steps * size / usable if usable else None
    return {"samples": usable, "steps": steps, "epochs": None if epochs is None else round(epochs, 3)}


def describe_training(one: TrainingSet, lengths: Lengths | None) -> dict[str, Any]:
    """Counts of a set, and its lengths where they are known."""
    facts: dict[str, Any] = {
        "samples": len(one.samples),
        "lines": len(one.distinct),
        "unusable_lines": len(one.bad),
        "images": len({path for sample in one.samples for path in sample.images}),
    }
    if lengths is not None:
        facts["tokens"] = describe_lengths(list(lengths.by_line.values()))
        facts["too_long"] = lengths.too_long
    return facts


def _sizes(sample: SampleRef, images: Mapping[Path, ImageFacts]) -> Sequence[tuple[int, int]] | None:
    facts = [images[path] for path in sample.images]
    return None if any(one.fault is not None for one in facts) else [(one.width, one.height) for one in facts]
