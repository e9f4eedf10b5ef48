"""The training and the validation set: lines, ids, answers and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tandem.check.images import ImageFacts
from tandem.check.report import Collector, Severity
from tandem.check.sources import Sources
from tandem.errors import Fault
from tandem.spec import Subject, find_marker
from tandem.spec.run import RunSpec
from tandem.train.annotations import BadSample, SampleRef, scan_samples
from tandem.train.meta import read_meta

_MOST_BAD = 10_000
"""Lines that are noted beyond those that may be left out: a file of another kind has one in every few bytes."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """One meta file's samples as training would read them."""

    place: str
    """Where in the Run file, for example spec.train.meta."""
    samples: tuple[SampleRef, ...]
    """Usable lines in their order, repeated ones again and again, among the first so many of the Run's limit."""
    bad: tuple[BadSample, ...]
    allowed_bad: int
    """How many lines may be left out."""

    @property
    def distinct(self) -> tuple[SampleRef, ...]:
        """The samples, each line once."""
        return tuple({(sample.file, sample.line): sample for sample in self.samples}.values())


def read_training_sets(spec: RunSpec, sources: Sources, findings: Collector) -> list[TrainingSet]:
    """Read the training set and the validation set, as far as they can be read."""
    if spec.train is None:
        return []
    wanted = {"spec.train.meta": spec.train.meta}
    if spec.train.validation is not None:
        wanted["spec.train.validation.meta"] = spec.train.validation.meta
    found = [
        _read_set(place, reference, sources, findings, allowed_bad=spec.train.drop_bad, limit=spec.limit)
        for place, reference in wanted.items()
    ]
    return [one for one in found if one is not None]


def _read_set(
    place: str, reference: str, sources: Sources, findings: Collector, *, allowed_bad: int, limit: int | None
) -> TrainingSet | None:
    with findings.catching("meta-unusable", prefix=place):
        path = sources.resolve(reference)
        if path is None:
            findings.add(
                "meta-missing",
                where=f"{place}: {reference}",
                what="there is no such file",
                remedy="Mend the path (relative paths start at the Run file's folder).",
            )
            return None
        meta = read_meta(path)
        samples: list[SampleRef] = []
        bad: list[BadSample] = []
        for sample in islice(scan_samples(meta), limit):
            if isinstance(sample, SampleRef):
                samples.append(sample)
                continue
            bad.append(sample)
            if len(bad) > allowed_bad + _MOST_BAD:
                findings.add(
                    "sample-unusable",
                    where=sample.faults[0].where,
                    what=f"reading stopped here after {len(bad)} lines that cannot be used",
                    remedy="Correct these first; there may be more.",
                    cause="data",
                )
                break
        if not samples and not bad:
            findings.add(
                "training-set-empty",
                where=f"{place}: {path}",
                what="its datasets hold no sample",
                remedy="Check the annotation files and repeat_time.",
                cause="data",
            )
        return TrainingSet(place=place, samples=tuple(samples), bad=tuple(bad), allowed_bad=allowed_bad)
    return None


def check_samples(one: TrainingSet, images: Mapping[Path, ImageFacts], findings: Collector) -> None:
    """Report unusable lines and images, as warnings while there are no more of them than may be left out."""
    broken_lines = {
        (sample.file, sample.line)
        for sample in one.samples
        if any(images[path].fault is not None for path in sample.images)
    }
    bad = len(one.bad) + len(broken_lines)
    severity = Severity.FAULT if bad > one.allowed_bad else Severity.WARNING
    for line in one.bad:
        findings.take("sample-unusable", line.faults, severity=severity)
    seen: set[Path] = set()
    for sample in one.distinct:
        for path in sample.images:
            if path not in seen:
                seen.add(path)
                add_image_finding(findings, path, images[path], place=sample.place, severity=severity)


def add_image_finding(findings: Collector, path: Path, facts: ImageFacts, *, place: str, severity: Severity) -> None:
    """Report what is wrong with an image, with the first sample that shows it; nothing for a sound one."""
    if facts.clipped:
        findings.add(
            "image-clipped",
            where=f"{place}: {path}",
            what="the image has more than 256 shades of grey, and those above 255 are all white to the model",
            remedy="Export it with 8 bits a channel, windowed as one looks at it.",
            cause="data",
            severity=Severity.WARNING,
        )
    if facts.fault is None or facts.code is None:
        return
    fault = Fault(where=f"{place}: {facts.fault.where}", what=facts.fault.what, remedy=facts.fault.remedy)
    cause = "unavailable" if facts.code == "image-unavailable" else "data"
    findings.take(facts.code, [fault], severity=severity, cause=cause)  # type: ignore[arg-type]


def check_ids(one: TrainingSet, findings: Collector) -> None:
    """Report ids used twice within one annotation file; across files only as a warning, for many number from 0."""
    first: dict[str, SampleRef] = {}
    within: dict[tuple[Path, str], SampleRef] = {}
    for sample in one.distinct:
        if sample.id is None:
            continue
        earlier = within.setdefault((sample.file, sample.id), sample)
        elsewhere = first.setdefault(sample.id, sample)
        if earlier is sample and elsewhere is sample:
            continue
        same_file = earlier is not sample
        other = earlier if same_file else elsewhere
        findings.add(
            "duplicate-id",
            where=sample.place,
            what=f"the id {sample.id!r} was already used at {other.place}",
            remedy="Give every sample an id of its own, or remove the repetition (repeat_time repeats on purpose).",
            cause="data",
            severity=Severity.FAULT if same_file else Severity.WARNING,
        )


def describe_marker_problem(answer: str, marker: str) -> str | None:
    """What is wrong with the marker in an answer; None if it is there with something behind it."""
    _, found, after = answer.rpartition(marker)
    if not found:
        return f"the answer has no {marker!r}"
    return None if after.strip() else f"nothing stands behind {marker!r}"


def check_answers(one: TrainingSet, spec: RunSpec, findings: Collector) -> None:
    """Report samples whose last answer does not end as the answer template says.

    A fault where this Run evaluates what it trains: without the marker no answer would be found. Else a warning.
    """
    assert spec.train is not None
    marker = find_marker(spec.train.answer_template)
    evaluated = any(evaluation.of is not Subject.BASE for evaluation in spec.evals)
    for sample in one.distinct:
        answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
        problem = describe_marker_problem(answers[-1], marker)
        if problem is not None:
            findings.add(
                "answer-without-marker",
                where=sample.place,
                what=problem,
                remedy="End the answer as train.answerTemplate says, or change the template to how the answers end.",
                cause="data",
                severity=Severity.FAULT if evaluated else Severity.WARNING,
            )


def read_case_ids(one: TrainingSet) -> dict[str, str]:
    """The case_id of every line that has one -> the place of its first line."""
    places: dict[str, str] = {}
    for sample in one.samples:
        if sample.case_id is not None:
            places.setdefault(sample.case_id, sample.place)
    return places
