"""What evaluation shares with training: a number from such samples says nothing about new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tandem.check.evaluation import EvalSet
from tandem.check.images import ImageFacts
from tandem.check.report import Collector, Severity
from tandem.check.training import TrainingSet, read_case_ids
from tandem.spec import Subject

Keys = dict[str, str]
"""What identifies an image or a case -> the place where it was first used."""


def check_overlaps(
    training: list[TrainingSet], evals: list[EvalSet], images: Mapping[Path, ImageFacts], findings: Collector
) -> None:
    """Report images (same file or same bytes) and case_ids that evaluation shares with training or validation.

    Validation counts as training: it chooses the best checkpoint. A warning where only the base model is asked.
    Re-encoded or resized copies are not recognised.
    """
    learnt_keys = [
        (
            "validation" if "validation" in learnt.place else "training",
            {"image": _images_of_training(learnt, images), "case": read_case_ids(learnt)},
        )
        for learnt in training
    ]
    reported: set[tuple[str, str]] = set()
    for one in sorted(evals, key=lambda item: item.spec.of is Subject.BASE):
        severity = Severity.WARNING if one.spec.of is Subject.BASE else Severity.FAULT
        evaluated = {"image": _images_of_eval(one, images), "case": _cases_of_eval(one)}
        for role, learnt_by_kind in learnt_keys:
            for kind, keys in evaluated.items():
                for here, there in find_shared(keys, learnt_by_kind[kind]):
                    if (here, there) in reported:
                        continue
                    reported.add((here, there))
                    findings.add(
                        f"{kind}-shared",
                        where=here,
                        what=f"the same {kind} is used for {role} at {there}",
                        remedy=f"Take it out of one of the two: split by case, so that no {kind} is in both.",
                        cause="data",
                        severity=severity,
                    )


def find_shared(evaluated: Keys, learnt: Keys) -> list[tuple[str, str]]:
    """The places of every key that both have, evaluation's first, in its order."""
    return [(place, learnt[key]) for key, place in evaluated.items() if key in learnt]


def _images_of_training(one: TrainingSet, images: Mapping[Path, ImageFacts]) -> Keys:
    keys: Keys = {}
    for sample in one.samples:
        for path in sample.images:
            keys.setdefault(_identity(path, images), f"{sample.place} ({path})")
    return keys


def _images_of_eval(one: EvalSet, images: Mapping[Path, ImageFacts]) -> Keys:
    keys: Keys = {}
    for sample in one.samples:
        for path in one.paths(sample):
            keys.setdefault(_identity(path, images), f"{one.data} id {sample.sample_id} ({path})")
    return keys


def _cases_of_eval(one: EvalSet) -> Keys:
    keys: Keys = {}
    for sample in one.samples:
        if sample.case_id is not None:
            keys.setdefault(sample.case_id, f"{one.data} id {sample.sample_id} (case {sample.case_id})")
    return keys


def _identity(path: Path, images: Mapping[Path, ImageFacts]) -> str:
    """The digest of the image's bytes, by which one file under two paths is one image too; unusable: its path."""
    return images[path].sha256 or str(path.resolve())
