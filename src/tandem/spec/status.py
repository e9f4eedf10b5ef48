"""The status of a Run on a cluster: what its controller reports; nothing on one machine reads or writes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem.spec.base import Section


class Phase(StrEnum):
    """Where a Run stands, in one word."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class ConditionType(StrEnum):
    """What `kubectl wait --for=condition=...` can wait for."""

    SUCCEEDED = "Succeeded"
    FINISHED = "Finished"
    STALLED = "Stalled"


class ConditionSection(Section):
    """One statement about the Run, as Kubernetes has them."""

    type: ConditionType
    """Succeeded: its results are committed. Finished: nothing more will happen, however it ended. Stalled: it cannot
    go on until someone changes something."""
    status: Literal["True", "False", "Unknown"]
    """Whether the statement holds."""
    reason: str = Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    """Why, in one CamelCase word."""
    message: str = Field(max_length=32768)
    """Why, for people; may be empty."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When `status` last changed, in UTC."""
    observed_generation: int | None = Field(default=None, ge=0)
    """The Run's metadata.generation that this is about. None: not known."""


class AttemptSection(Section):
    """The attempt that is under way, or was the last."""

    stage: str
    """train, generate/<evaluation> or score/<evaluation>."""
    number: int = Field(ge=1)
    """1 for a stage's first attempt."""
    job: str
    """Name of the PyTorchJob or Job."""
    started_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When its first pod started, in UTC. None: it has not."""


class ProgressSection(Section):
    """How far the attempt has come, as its pods' logs say."""

    unit: str
    """What is counted: steps, samples, judged, compared."""
    done: int = Field(ge=0)
    """How many are done."""
    total: int = Field(ge=0)
    """How many there are in all."""
    eta_seconds: int | None = Field(default=None, ge=0)
    """Seconds that the rest should take at the pace so far. None: too early to say."""
    text: str
    """The same in a few characters, for a column: `40/150 steps`."""


class FigureSection(Section):
    """One figure of one evaluation."""

    evaluation: str
    """The evaluation's name in the spec."""
    name: str
    """Which figure, for example accuracy."""
    value: float
    """Its value."""
    low: float | None = None
    """Lower end of the 95 % interval. None: there is no interval."""
    high: float | None = None
    """Upper end of the 95 % interval. None: there is no interval."""
    count: int | None = Field(default=None, ge=0)
    """Samples that it is computed from. None: not known."""


class RunStatus(Section):
    """What the controller has seen and done; made anew from the store and the cluster whenever it starts."""

    observed_generation: int | None = Field(default=None, ge=0)
    """The Run's metadata.generation that all of this is about. None: not known."""
    run_id: str | None = None
    """The Run's id: its name and ten hex digits of its spec's digest. None: not accepted yet."""
    phase: Phase = Phase.PENDING
    """Where the Run stands."""
    conditions: tuple[ConditionSection, ...] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )
    """Succeeded, Finished and Stalled."""
    attempt: AttemptSection | None = None
    """The attempt that is under way, or was the last. None: there was none."""
    progress: ProgressSection | None = None
    """How far that attempt has come. None: it has not said."""
    metrics: tuple[FigureSection, ...] = Field(
        default=(),
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["evaluation", "name"]},
    )
    """Figures of the evaluations that are done; the whole result is in the store."""
    figures: str | None = None
    """The main figures in one line, for a column: `base 0.000, adapter 0.987`. None: there are none yet."""
    message: str | None = None
    """What went wrong or is waited for, in one line. None: nothing."""
    remedy: str | None = None
    """What to do about it. None: nothing."""
    folder: str | None = None
    """Where everything of this Run lies, its logs included: an s3:// URI. None: not accepted yet."""
    result: str | None = None
    """Where the results lie: an s3:// URI. None: nothing is committed yet."""
