"""The generate stage: one shard of one evaluation, by the base model, the adapter, a checkpoint, or a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tandem.evaluate.job import GenerateJob, ShardJob
from tandem.evaluate.parts import Progress
from tandem.evaluate.run_endpoint import run_endpoint
from tandem.evaluate.run_generate import run_generate
from tandem.evaluate.shelf import ShelfPlace
from tandem.inputs.resolve import require
from tandem.model.libraries import load_libraries
from tandem.outcome import DONE, Outcome
from tandem.record.evaluation import find_evaluation
from tandem.spec import EvalSpec, Subject
from tandem.stage.adapters import fetch_trained_adapter
from tandem.stage.context import Context


def run_generate_stage(context: Context, say: Callable[[str], None]) -> Outcome:
    """Generate this attempt's shard into the output folder."""
    _, name, shard = context.facts.stage.split("/")
    evaluation, checkpoint = find_evaluation(context.spec, name)
    train = context.spec.train
    data = context.use_input(f"spec.evals[{evaluation.name}].data")
    job = ShardJob(
        eval=evaluation,
        adapter_folder=_fetch_adapter(context, evaluation, checkpoint),
        data=data,
        images=_find_images(context, evaluation, data),
        limit=context.spec.limit,
        shard=int(shard),
        work=context.work,
        base=context.base,
        seed=context.spec.seed,
        answer_template=None if train is None else train.answer_template,
    )

    def report(progress: Progress) -> None:
        say(f"sample {progress.samples}/{progress.samples_total} batch {progress.batches} of {progress.batches_total}")

    shelf = ShelfPlace(
        store=context.store,
        executions=context.facts.place.executions(context.facts.stage),
        execution=context.execution,
    )
    if evaluation.endpoint is not None:
        run_endpoint(job, environment=os.environ, shelf=shelf, report=report, say=say)
        return DONE
    load_libraries()
    model = context.use_input("spec.model.source")
    loaded = GenerateJob(**dict(job), model_folder=model, tiles=None if train is None else train.tiles)
    run_generate(loaded, shelf=shelf, report=report, say=say)
    return DONE


def _find_images(context: Context, evaluation: EvalSpec, data: Path) -> Path:
    """The folder that image names of an evaluation are relative to."""
    if evaluation.images is None:
        return data.parent
    place = f"spec.evals[{evaluation.name}].images"
    return require(context.resolver.resolve(evaluation.images), place, evaluation.images)


def _fetch_adapter(context: Context, evaluation: EvalSpec, checkpoint: int | None) -> Path | None:
    if evaluation.of is Subject.BASE:
        return None
    if context.spec.train is None:
        return context.use_input("spec.model.adapter")
    return fetch_trained_adapter(context.store, context.facts.place, evaluation.of, checkpoint, context.work)
