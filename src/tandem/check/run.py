"""The whole check of a Run, before anything is loaded that takes time or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.check.base import Base, check_base
from tandem.check.endpoint import check_endpoints
from tandem.check.evaluation import (
    EvalSet,
    check_eval_samples,
    check_marker,
    check_tiles,
    choose_tiles,
    count_eval_tiles,
    read_eval_sets,
)
from tandem.check.images import ImageFacts, inspect_images
from tandem.check.lengths import check_lengths, check_steps, count_training_tiles, describe_training, reading_rules
from tandem.check.machine import (
    check_encoders,
    check_generation_memory,
    check_gpus,
    check_judge_keys,
    check_store,
    check_training_memory,
)
from tandem.check.overlap import check_overlaps
from tandem.check.prompts import check_prompts
from tandem.check.report import Collector, Report
from tandem.check.sources import Sources
from tandem.check.training import (
    TrainingSet,
    check_answers,
    check_ids,
    check_samples,
    read_training_sets,
)
from tandem.spec import Submission
from tandem.spec.run import RunSpec


def check_run(
    submission: Submission,
    *,
    sources: Sources,
    store_url: str | None,
    environment: Mapping[str, str] | None,
    gpu_memory: int | None,
    gpus: int,
    cpu_count: int,
) -> Report:
    """Find everything that would stop this Run, or make its numbers wrong, without loading a model.

    `environment` holds the keys of judges and endpoints; None where the Run will not run here, for there are others
    there. `gpu_memory` is one GPU's memory in bytes, None where there is none to compare with; `gpus` is how many this
    machine has, 0 also where the Run will not run here. Raises nothing for what is wrong with the Run: it is in
    the report.
    """
    spec = submission.run.spec
    findings = Collector()
    base = check_base(spec.model, sources, findings)
    training = read_training_sets(spec, sources, findings)
    evals = read_eval_sets(spec, sources, findings)
    images = inspect_images(_list_images(training, evals), cpu_count=cpu_count)
    facts: dict[str, Any] = {"run": submission.id, "images": _describe_images(images), "model": _describe_base(base)}
    if spec.limit is not None:
        facts["limit"] = spec.limit
    facts |= _check_training(spec, training, images, base, findings, gpu_memory=gpu_memory, cpu_count=cpu_count)
    check_eval_samples(evals, images, base.template, findings)
    facts["evals"] = {
        one.spec.name: _check_evaluation(one, spec, images, base, findings, gpu_memory=gpu_memory, cpu_count=cpu_count)
        for one in evals
    }
    check_overlaps(training, evals, images, findings)
    check_encoders(spec, sources, findings)
    if environment is not None:
        check_judge_keys(spec, environment, findings)
        check_endpoints(spec, environment, findings)
    if spec.train is not None:
        check_gpus(spec.train, gpus, findings)
    check_store(store_url, findings)
    return Report(findings=tuple(findings.findings), facts=facts)


def _list_images(training: list[TrainingSet], evals: list[EvalSet]) -> list[Path]:
    trained = [path for one in training for sample in one.distinct for path in sample.images]
    return trained + [path for one in evals for sample in one.samples for path in one.paths(sample)]


def _check_training(
    spec: RunSpec,
    training: list[TrainingSet],
    images: Mapping[Path, ImageFacts],
    base: Base,
    findings: Collector,
    *,
    gpu_memory: int | None,
    cpu_count: int,
) -> dict[str, Any]:
    """Facts about the training and validation sets and about the steps and memory of training."""
    train = spec.train
    if train is None:
        return {}
    facts: dict[str, Any] = {}
    rules = reading_rules(train, base)
    measured = None
    for one in training:
        check_samples(one, images, findings)
        check_ids(one, findings)
        check_answers(one, spec, findings)
        lengths = None
        if rules is not None:
            lengths = check_lengths(
                one, images, base, findings, rules=rules, allowed=train.drop_too_long, cpu_count=cpu_count
            )
        described = describe_training(one, lengths)
        if rules is not None:
            described["tiles"] = count_training_tiles(one, images, rules)
        if one.place == "spec.train.meta":
            measured = lengths
            described |= check_steps(one, lengths, train, findings)
        facts["train" if one.place == "spec.train.meta" else "validation"] = described
    memory = check_training_memory(train, base, measured, gpu_memory, findings)
    if memory is not None:
        facts.setdefault("train", {})["memory"] = memory
    return facts


def _check_evaluation(
    one: EvalSet,
    spec: RunSpec,
    images: Mapping[Path, ImageFacts],
    base: Base,
    findings: Collector,
    *,
    gpu_memory: int | None,
    cpu_count: int,
) -> dict[str, Any]:
    check_tiles(one, images, spec, base, findings)
    check_marker(one, spec, base, findings)
    facts: dict[str, Any] = {
        "samples": len(one.samples),
        "images": len({path for sample in one.samples for path in one.paths(sample)}),
        "open": sum(sample.answer_type == "OPEN" for sample in one.samples),
        "closed": sum(sample.answer_type == "CLOSED" for sample in one.samples),
    }
    if one.spec.endpoint is not None:
        return facts | {"endpoint": one.spec.endpoint.base_url}
    tiles = choose_tiles(one.spec, spec, base)
    longest = None
    if tiles is not None and base.info is not None:
        facts["tiles"] = count_eval_tiles(one, images, tiles, base.info.tile_size)
        longest = check_prompts(one, images, tiles, base, findings, cpu_count=cpu_count)
        if longest is not None:
            facts["longest_prompt"] = longest
    memory = check_generation_memory(one.spec, base, longest, gpu_memory, findings)
    return facts if memory is None else {**facts, "memory": memory}


def _describe_images(images: Mapping[Path, ImageFacts]) -> dict[str, int]:
    return {"files": len(images), "unusable": sum(one.fault is not None for one in images.values())}


def _describe_base(base: Base) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if base.digest is not None:
        facts["digest"] = base.digest
    if base.info is not None:
        facts |= {
            "parameters": base.info.parameters,
            "tile_size": base.info.tile_size,
            "tokens_per_tile": base.info.tokens_per_tile,
        }
    return facts
