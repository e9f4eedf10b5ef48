"""Which stages a Run consists of, and what each needs before it can start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tandem.record.evaluation import name_evaluation
from tandem.spec import EvalSpec, RunSpec, Subject

TRAIN = "train"


class Kind(StrEnum):
    """What a stage keeps busy: stages of different kinds do not wait for each other's room."""

    COMPUTE = "compute"
    """Training and generation: the accelerator."""
    SCORE = "score"
    """Scoring: mostly the judge's server."""


def kind_of(stage: str) -> Kind:
    """The kind of the stage of this name."""
    return Kind.SCORE if stage.startswith("score/") else Kind.COMPUTE


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One unit of work that is committed whole or not at all."""

    name: str
    """train, generate/<evaluation>/<shard> or score/<evaluation>/<score id>."""
    needs: tuple[str, ...] = ()
    """Stages that must be committed first."""
    deadline_seconds: float | None = None
    """Longest running time over all attempts."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of one set of weights: `checkpoint-every` makes several from one entry of the Run."""

    name: str
    spec: EvalSpec


def list_evaluations(spec: RunSpec, checkpoints: tuple[int, ...] | None) -> tuple[Evaluation, ...]:
    """The evaluations of a Run; those of every checkpoint are known once training has ended."""
    found: list[Evaluation] = []
    for entry in spec.evals:
        if entry.of is Subject.CHECKPOINT_EVERY:
            found += [Evaluation(name=name_evaluation(entry, step), spec=entry) for step in checkpoints or ()]
        else:
            found.append(Evaluation(name=name_evaluation(entry, None), spec=entry))
    return tuple(found)


def list_stages(spec: RunSpec, checkpoints: tuple[int, ...] | None, score_ids: Mapping[str, str]) -> tuple[Stage, ...]:
    """All stages in the order in which one machine makes them.

    `score_ids` gives the digest of the scoring settings for each entry of the Run's evaluations.
    """
    stages: list[Stage] = []
    if spec.train is not None:
        stages.append(Stage(name=TRAIN, deadline_seconds=_seconds(spec.train.deadline_minutes)))
    for evaluation in list_evaluations(spec, checkpoints):
        entry = evaluation.spec
        trained = spec.train is not None and entry.of is not Subject.BASE
        deadline = _seconds(entry.deadline_minutes)
        shards = tuple(f"generate/{evaluation.name}/{shard}" for shard in range(entry.shards))
        stages += [Stage(name=shard, needs=(TRAIN,) if trained else (), deadline_seconds=deadline) for shard in shards]
        stages.append(
            Stage(name=f"score/{evaluation.name}/{score_ids[entry.name]}", needs=shards, deadline_seconds=deadline)
        )
    return tuple(stages)


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * 60
