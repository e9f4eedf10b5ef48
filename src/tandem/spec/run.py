"""The Run: what a user asks for, as a file under jobs/ and as a custom resource."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from tandem.spec.base import Section
from tandem.spec.evals import EvalSpec, Subject
from tandem.spec.model import ModelSpec
from tandem.spec.train import TrainSpec

API_VERSION = "tandem.dev/v1alpha1"
KIND = "Run"


class Desired(StrEnum):
    """What a user may change about a Run that exists."""

    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    CANCELLED = "Cancelled"


class Metadata(Section):
    """Name and place of the Run."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")
    """Lower-case letters, digits and hyphens, at most 30, so that names of pods made from it are legal."""
    namespace: str | None = None
    """Kubernetes namespace. None: the current one; ignored on one machine."""
    labels: dict[str, str] = {}
    """Kubernetes labels; not part of the Run's identity."""
    annotations: dict[str, str] = {}
    """Kubernetes annotations; not part of the Run's identity."""


class RunSpec(Section):
    """A model, then optionally training, then evaluations."""

    model: ModelSpec
    """What to start from."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of data order, dropout, adapter initialisation and bootstrap."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many samples of the training set, the validation set and each evaluation: the small
    first run that one should always make. It has an id of its own. None: all."""
    train: TrainSpec | None = None
    """None: evaluate only."""
    evals: tuple[EvalSpec, ...] = ()
    """Named evaluations, in the order in which they are made."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts of one stage. One that was told to stop and saved its work does not count."""
    desired: Desired = Desired.ACTIVE
    """Active, Suspended or Cancelled. The only part of a spec that may change, and no part of the Run's identity."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        faults = []
        if self.train is None and not self.evals:
            faults.append("nothing to do: give train, evals or both")
        if self.train is not None and self.model.adapter is not None:
            faults.append("model.adapter is for Runs without training: leave out one of the two")
        names = [evaluation.name for evaluation in self.evals]
        faults += [f"evals: name {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for evaluation in self.evals:
            faults += _faults_of(evaluation, self)
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Run(Section):
    """One Run."""

    api_version: Literal["tandem.dev/v1alpha1"]
    """Always tandem.dev/v1alpha1."""
    kind: Literal["Run"]
    """Always Run."""
    metadata: Metadata
    """Name and place."""
    spec: RunSpec
    """What is asked for."""


def _faults_of(evaluation: EvalSpec, spec: RunSpec) -> list[str]:
    place = f"evals[{evaluation.name}]"
    trained = spec.train is not None
    if evaluation.of is Subject.BASE:
        if evaluation.tiles is None and not trained:
            return [f"{place}: a bare base model must state its tiles"]
        return []
    if evaluation.of is Subject.ADAPTER:
        if not trained and spec.model.adapter is None:
            return [f"{place}: there is no adapter: give train, model.adapter, or of: base"]
        return []
    if not trained:
        return [f"{place}: of: {evaluation.of.value} needs train"]
    if evaluation.of is Subject.CHECKPOINT_BEST and spec.train is not None and spec.train.validation is None:
        return [f"{place}: of: checkpoint-best needs train.validation: without it there is no best"]
    return []
