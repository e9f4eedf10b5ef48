"""Evaluation files: samples, images, placeholders, tile budgets and answer templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.check.base import Base
from tandem.check.images import ImageFacts
from tandem.check.report import Collector, Severity
from tandem.check.sources import Sources
from tandem.check.training import add_image_finding
from tandem.errors import BadData
from tandem.evaluate.prepare import BUDGET_RULES
from tandem.evaluate.records import EvalSample
from tandem.evaluate.samples import parse_eval_samples, read_eval_file, read_eval_samples
from tandem.model.prompt import Template, Turn, turn_faults
from tandem.model.tiles import count_tiles, tile_budget
from tandem.spec import EvalSpec, Subject, TileRule, TilesSpec, find_marker
from tandem.spec.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """One evaluation and the samples that it would ask."""

    spec: EvalSpec
    data: Path
    images: Path
    """Folder that image names are relative to."""
    samples: tuple[EvalSample, ...]
    """Cut to the Run's limit; of a file with faults, the samples that can be read."""

    @property
    def place(self) -> str:
        """Where in the Run file."""
        return f"spec.evals[{self.spec.name}]"

    def paths(self, sample: EvalSample) -> list[Path]:
        """The sample's image files."""
        return [self.images / name for name in sample.images]


def read_eval_sets(spec: RunSpec, sources: Sources, findings: Collector) -> list[EvalSet]:
    """Read every evaluation's file, each file's faults once, however many evaluations use it."""
    read: dict[Path, tuple[EvalSample, ...]] = {}
    sets = []
    for evaluation in spec.evals:
        place = f"spec.evals[{evaluation.name}]"
        with findings.catching("evaluation-unavailable", prefix=place):
            data = sources.resolve(evaluation.data)
            images = data.parent if data is not None else None
            if evaluation.images is not None:
                images = sources.resolve(evaluation.images)
            if data is None:
                _add_missing(findings, "evaluation-missing", f"{place}.data: {evaluation.data}", "file")
                continue
            if data not in read:
                read[data] = _read_samples(data, findings)
            if images is None or not images.is_dir():
                _add_missing(findings, "image-folder-missing", f"{place}.images: {evaluation.images}", "folder")
                continue
            samples = read[data][: spec.limit]
            sets.append(EvalSet(spec=evaluation, data=data, images=images, samples=samples))
    return sets


def _add_missing(findings: Collector, code: str, where: str, kind: str) -> None:
    remedy = "Mend the path (relative paths start at the Run file's folder)."
    findings.add(code, where=where, what=f"there is no such {kind}", remedy=remedy)


def _read_samples(data: Path, findings: Collector) -> tuple[EvalSample, ...]:
    try:
        return tuple(read_eval_samples(data))
    except BadData as error:
        findings.take("evaluation-unusable", error.faults)
        return _read_what_can_be(data)


def _read_what_can_be(data: Path) -> tuple[EvalSample, ...]:
    """The samples of a faulty file that are sound by themselves, so that their images are checked in the same go."""
    try:
        text = read_eval_file(data).decode("utf-8-sig")
        values = json.loads(text) if text.lstrip().startswith("[") else [_parse(line) for line in text.split("\n")]
    except (BadData, ValueError, RecursionError):
        return ()
    samples: list[EvalSample] = []
    for value in values:
        try:
            samples += parse_eval_samples(json.dumps([value]).encode(), where=str(data))
        except BadData:
            continue
    return tuple(samples)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def check_eval_samples(
    sets: list[EvalSet], images: Mapping[Path, ImageFacts], template: Template, findings: Collector
) -> None:
    """Report placeholders that do not fit and images that are not usable, once for each file or image."""
    asked: set[tuple[Path, str]] = set()
    shown: set[Path] = set()
    for one in sets:
        for sample in one.samples:
            place = f"{one.data} id {sample.sample_id}"
            if (one.data, sample.sample_id) not in asked:
                asked.add((one.data, sample.sample_id))
                turns = [Turn(role="user", text=sample.question)]
                faults = turn_faults(turns, len(sample.images), template=template, place=place)
                findings.take("placeholders", faults)
            for path in one.paths(sample):
                if path not in shown:
                    shown.add(path)
                    add_image_finding(findings, path, images[path], place=place, severity=Severity.FAULT)


def choose_tiles(evaluation: EvalSpec, spec: RunSpec, base: Base) -> TilesSpec | None:
    """The tile budget of an evaluation: its own, else the training's, else the adapter's; None if none is known."""
    return evaluation.tiles or _trained_tiles(spec, base)


def _trained_tiles(spec: RunSpec, base: Base) -> TilesSpec | None:
    if spec.train is not None:
        return spec.train.tiles
    if base.card is not None:
        tiles = base.card.tiles
        return TilesSpec(max=tiles.max, rule=TileRule(tiles.rule), thumbnail=tiles.thumbnail)
    return None


def count_eval_tiles(one: EvalSet, images: Mapping[Path, ImageFacts], tiles: TilesSpec, tile_size: int) -> int:
    """Count the tiles of all samples, thumbnails included; bad images do not count."""
    return sum(sum(tile_counts(one, sample, images, tiles, tile_size)) for sample in one.samples)


def tile_counts(
    one: EvalSet, sample: EvalSample, images: Mapping[Path, ImageFacts], tiles: TilesSpec, tile_size: int
) -> list[int]:
    """Count the tiles of each sound image of a sample, thumbnails included."""
    most = tile_budget(BUDGET_RULES[tiles.rule], tiles.max, len(sample.images))
    return [
        count_tiles(facts.width, facts.height, max_tiles=most, tile_size=tile_size, thumbnail=tiles.thumbnail)
        for path in one.paths(sample)
        if (facts := images[path]).fault is None
    ]


def check_tiles(
    one: EvalSet, images: Mapping[Path, ImageFacts], spec: RunSpec, base: Base, findings: Collector
) -> None:
    """Warn if an evaluation cuts images otherwise than training did.

    A warning, for some want the original's evaluation, which does; its figures are then not those of the model
    as it was trained.
    """
    trained, own = _trained_tiles(spec, base), one.spec.tiles
    if trained is None or own is None or own == trained:
        return
    tile_size = base.info.tile_size if base.info is not None else 448
    counts = [count_eval_tiles(one, images, tiles, tile_size) for tiles in (trained, own)]
    findings.add(
        "tiles-differ",
        where=f"{one.place}.tiles",
        what=f"the model is trained with {describe_tiles(trained)} and evaluated with {describe_tiles(own)}: "
        f"{counts[1]} tiles where training's budget gives {counts[0]}",
        remedy="Leave out the evaluation's tiles, so that it uses the training's, unless you mean to measure this.",
        severity=Severity.WARNING,
    )


def describe_tiles(tiles: TilesSpec) -> str:
    """A tile budget in words."""
    each = "a sample" if tiles.rule is TileRule.PER_SAMPLE else "an image"
    return f"{tiles.max} tiles {each}{'' if tiles.thumbnail else ' without thumbnail'}"


def check_marker(one: EvalSet, spec: RunSpec, base: Base, findings: Collector) -> None:
    """Warn if an evaluation of what was trained looks for another marker than the one that training teaches."""
    trained = spec.train.answer_template if spec.train is not None else None
    if base.card is not None:
        trained = base.card.answer_template
    own = one.spec.answer_template
    if trained is None or own is None or one.spec.of is Subject.BASE or find_marker(own) == find_marker(trained):
        return
    findings.add(
        "marker-differs",
        where=f"{one.place}.answerTemplate",
        what=f"the model is taught {find_marker(trained)!r}, but this evaluation looks for {find_marker(own)!r}",
        remedy="Leave out the evaluation's answerTemplate, so that it uses the training's.",
        severity=Severity.WARNING,
    )
