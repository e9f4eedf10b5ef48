"""The Run: what a user asks for, as a file under jobs/ and as a custom resource."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from tandem.spec.base import BrokenRule, Section, refuse
from tandem.spec.evals import EvalSpec, Subject
from tandem.spec.model import ModelSpec
from tandem.spec.train import TrainSpec

API_VERSION = "tandem.dev/v1alpha1"
KIND = "Run"
MAX_TTL_SECONDS = 2**31 - 1
"""As much as Kubernetes takes for its Jobs."""


class Desired(StrEnum):
    """What a user may change about a Run that exists."""

    ACTIVE = "Active"
    SUSPENDED = "Suspended"
    CANCELLED = "Cancelled"


class Metadata(Section):
    """Name and place of the Run."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$", json_schema_extra={"maxLength": 30})
    """Lower-case letters, digits and hyphens, at most 30, so that names of pods made from it are legal."""
    namespace: str | None = None
    """Kubernetes namespace. None: the current one; ignored on one machine."""
    labels: dict[str, str] = {}
    """Kubernetes labels; not part of the Run's identity."""
    annotations: dict[str, str] = {}
    """Kubernetes annotations; not part of the Run's identity."""


PROFILE_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class ProfilesSpec(Section):
    """Which pod shapes of the platform team the stages use on a cluster; ignored on one machine."""

    train: str | None = Field(default=None, pattern=PROFILE_NAME)
    """Name of a profile for training, as `tandem check --cluster` lists them. None: the default one."""
    generate: str | None = Field(default=None, pattern=PROFILE_NAME)
    """Name of a profile for generating. None: the default one."""
    endpoint: str | None = Field(default=None, pattern=PROFILE_NAME)
    """Name of a profile for generating by an evaluation's `endpoint`, which needs no GPU but the server's key and a way
    to it. None: the default one."""
    score: str | None = Field(default=None, pattern=PROFILE_NAME)
    """Name of a profile for scoring. None: the default one."""


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
    evals: tuple[EvalSpec, ...] = Field(default=(), max_length=100)
    """Named evaluations, in the order in which they are made. 100: Kubernetes compares their names with each other."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts of one stage. One that was told to stop and saved its work does not count."""
    profiles: ProfilesSpec = ProfilesSpec()
    """Pod shapes on a cluster."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=MAX_TTL_SECONDS)
    """Seconds from its end until the cluster forgets this Run object; what it left in the store stays. Ignored on one
    machine. None: kept until someone deletes it."""
    desired: Desired = Desired.ACTIVE
    """Active, Suspended or Cancelled. The only part of a spec that may change, and no part of the Run's identity."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        refuse(self, [*_check_parts(self), *_check_names(self), *_check_subjects(self)])
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


def _check_parts(spec: RunSpec) -> list[BrokenRule]:
    if spec.train is None and not spec.evals:
        return [BrokenRule(place=(), what="there is nothing to do", remedy="Give train, evals or both.")]
    if spec.train is not None and spec.model.adapter is not None:
        return [
            BrokenRule(
                place=("model", "adapter"),
                what="is for Runs without training",
                remedy="Leave out model.adapter or train.",
            )
        ]
    return []


def _check_names(spec: RunSpec) -> list[BrokenRule]:
    names = [evaluation.name for evaluation in spec.evals]
    return [
        BrokenRule(
            place=("evals", index, "name"),
            what=f"{name} is the name of evals[{names.index(name)}] too",
            remedy="Give each evaluation a name of its own.",
        )
        for index, name in enumerate(names)
        if names.index(name) != index
    ]


def _check_subjects(spec: RunSpec) -> list[BrokenRule]:
    return [rule for index, evaluation in enumerate(spec.evals) for rule in _check_subject(evaluation, index, spec)]


def _check_subject(evaluation: EvalSpec, index: int, spec: RunSpec) -> list[BrokenRule]:
    place = ("evals", index)
    subject = evaluation.of
    if subject is Subject.BASE:
        if evaluation.tiles is None and spec.train is None and evaluation.endpoint is None:
            return [
                BrokenRule(
                    place=(*place, "tiles"),
                    what="is missing: a bare base model says nothing about tiles",
                    remedy="Give tiles, the same as in the evaluation that this one is compared with.",
                )
            ]
        return []
    if spec.train is not None and evaluation.endpoint is not None:
        return [
            BrokenRule(
                place=(*place, "of"),
                what="is what this Run trains, and no endpoint can serve that before it is trained",
                remedy="Train first; then merge (tandem merge), serve the result, and evaluate it in a Run of its own.",
            )
        ]
    if spec.train is None and (subject is not Subject.ADAPTER or spec.model.adapter is None):
        return [
            BrokenRule(
                place=(*place, "of"),
                what=f"{subject.value} is asked for, and nothing is trained",
                remedy="Give of: base, or the served adapter as model.adapter."
                if evaluation.endpoint is not None
                else "Give train, or of: base" + (", or model.adapter." if subject is Subject.ADAPTER else "."),
            )
        ]
    if subject is Subject.CHECKPOINT_BEST and spec.train is not None and spec.train.validation is None:
        return [
            BrokenRule(
                place=(*place, "of"),
                what="checkpoint-best is the one with the lowest validation loss, and there is no validation",
                remedy="Give train.validation, or of: checkpoint-last.",
            )
        ]
    return []
