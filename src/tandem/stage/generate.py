"""The generate stage: one shard of one evaluation, by the base model, the adapter or a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.evaluate.generate import Progress
from tandem.evaluate.job import GenerateJob
from tandem.evaluate.run_generate import run_generate
from tandem.inputs.resolve import require
from tandem.model.quiet import be_quiet
from tandem.outcome import DONE, Outcome
from tandem.record.commit import Commit, Tree, fetch_files, read_commit, read_file
from tandem.record.evaluation import find_evaluation
from tandem.spec import EvalSpec, Subject
from tandem.stage.context import Context

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "tandem.json")
"""What an evaluation needs of an adapter or checkpoint; a checkpoint's optimizer state stays where it is."""


def run_generate_stage(context: Context, say: Callable[[str], None]) -> Outcome:
    """Generate this attempt's shard into the output folder."""
    be_quiet()
    _, name, shard = context.facts.stage.split("/")
    evaluation, checkpoint = find_evaluation(context.spec, name)
    train = context.spec.train
    job = GenerateJob(
        eval=evaluation,
        model_folder=context.use_input("spec.model.source"),
        adapter_folder=_fetch_adapter(context, evaluation, checkpoint),
        data=context.use_input(f"spec.evals[{evaluation.name}].data"),
        images=find_images(context, evaluation),
        limit=context.spec.limit,
        shard=int(shard),
        work=context.work,
        base=context.base,
        seed=context.spec.seed,
        tiles=None if train is None else train.tiles,
        answer_template=None if train is None else train.answer_template,
    )

    def report(progress: Progress) -> None:
        say(f"sample {progress.samples}/{progress.samples_total} batch {progress.batches} of {progress.batches_total}")

    run_generate(job, report=report)
    return DONE


def find_images(context: Context, evaluation: EvalSpec) -> Path:
    """The folder that image names of an evaluation are relative to."""
    if evaluation.images is None:
        return context.resolver.locate(evaluation.data).parent
    place = f"spec.evals[{evaluation.name}].images"
    return require(context.resolver.resolve(evaluation.images), place, evaluation.images)


def _fetch_adapter(context: Context, evaluation: EvalSpec, checkpoint: int | None) -> Path | None:
    if evaluation.of is Subject.BASE:
        return None
    if context.spec.train is None:
        return context.use_input("spec.model.adapter")
    commit = read_commit(context.store, context.facts.place, "train")
    folder = context.work / "adapter"
    if evaluation.of is Subject.ADAPTER:
        names = tuple(f"adapter/{name}" for name in ADAPTER_FILES)
        fetch_files(context.store, commit.tree, names, context.work)
        return folder
    step = checkpoint if checkpoint is not None else _choose_step(context, commit, evaluation.of)
    fetch_files(context.store, _find_checkpoint(commit, step), ADAPTER_FILES, folder)
    if not (folder / "tandem.json").exists():
        fetch_files(context.store, commit.tree, ("adapter/tandem.json",), context.work / "card")
        shutil.copy(context.work / "card" / "adapter" / "tandem.json", folder / "tandem.json")
    return folder


def _choose_step(context: Context, commit: Commit, subject: Subject) -> int:
    if subject is Subject.CHECKPOINT_LAST:
        return max(commit.checkpoints)
    best = json.loads(read_file(context.store, commit.tree, "train.json"))["checkpoints"]["best"]
    return int(best["step"])


def _find_checkpoint(commit: Commit, step: int) -> Tree:
    tree = commit.checkpoints.get(step)
    if tree is None:
        raise BadData(
            Fault(
                where=f"checkpoint of step {step}",
                what=f"is not in the store, which has {sorted(commit.checkpoints)}",
                remedy="Evaluate one of those, or the adapter.",
            )
        )
    return tree
