"""Names, labels and annotations of what the controller makes: the one place that spells them."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.control.stages import list_evaluations
from tandem.errors import BadConfiguration, Fault
from tandem.spec import RunSpec, Subject

GROUP = "tandem.dev"
RUN_ID = "tandem.dev/run-id"
STAGE = "tandem.dev/stage"
"""As a label train, generate or score; as an annotation the whole stage, with its shards."""
ATTEMPT = "tandem.dev/attempt"
RUN_SHA256 = "tandem.dev/run-sha256"
PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "tandem-controller"
OURS = f"{MANAGED_BY}={MANAGER}"
"""Selects everything that controllers made."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""The label by which Kueue knows a job's queue."""

LONGEST_JOB_NAME = 54
"""Characters: pods of a PyTorchJob add a role and an index, and a pod's name is a label of 63."""


@dataclass(frozen=True, kw_only=True)
class JobStage:
    """What one job makes: a stage, or several shards of one evaluation."""

    kind: str
    """train, generate or score."""
    evaluation: str = ""
    parts: tuple[str, ...] = ()
    """Shards of generate; the score id of score."""

    @property
    def text(self) -> str:
        """As the pods are told it: train, generate/<evaluation>/<shards>, score/<evaluation>/<score id>."""
        return self.kind if self.kind == "train" else f"{self.kind}/{self.evaluation}/{','.join(self.parts)}"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in it, in the order of the pods' indices."""
        return (self.kind,) if self.kind == "train" else tuple(f"{self.kind}/{self.evaluation}/{p}" for p in self.parts)


def parse_job_stage(text: str) -> JobStage:
    """Read what JobStage.text writes. Raises ValueError."""
    match text.split("/"):
        case ["train"]:
            return JobStage(kind="train")
        case ["generate" | "score" as kind, evaluation, parts] if evaluation and parts:
            return JobStage(kind=kind, evaluation=evaluation, parts=tuple(parts.split(",")))
        case _:
            raise ValueError(f"no stage: {text}")


def join_shards(stages: tuple[str, ...]) -> tuple[JobStage, ...]:
    """Stages to start at once as jobs: shards of one evaluation share one, the order stays."""
    shards: dict[str, list[str]] = {}
    order: list[tuple[str, str]] = []
    for stage in stages:
        one = parse_job_stage(stage)
        if one.kind == "generate":
            if one.evaluation not in shards:
                order.append(("generate", one.evaluation))
            shards.setdefault(one.evaluation, []).extend(one.parts)
        else:
            order.append(("", stage))
    return tuple(
        JobStage(kind=kind, evaluation=text, parts=tuple(sorted(shards[text], key=int)))
        if kind
        else parse_job_stage(text)
        for kind, text in order
    )


def name_job(run_id: str, spec: RunSpec, checkpoints: tuple[int, ...] | None, stage: JobStage, attempt: int) -> str:
    """The name of a job: made twice, it is the same.

    Raises BadConfiguration if Kubernetes could not take it.
    """
    name = f"{run_id}-{_code(spec, checkpoints, stage)}-{attempt}"
    if len(name) > LONGEST_JOB_NAME:
        raise BadConfiguration(
            Fault(
                where="metadata.name",
                what=f"is too long: the job {name} would have {len(name)} characters, more than {LONGEST_JOB_NAME}",
                remedy="Give the Run a shorter name.",
            )
        )
    return name


def _code(spec: RunSpec, checkpoints: tuple[int, ...] | None, stage: JobStage) -> str:
    """t, or g and s with the evaluation's place in the Run file; its checkpoint's place after a c.

    The place among all evaluations would change for those after `checkpoint-every` once training has ended.
    """
    if stage.kind == "train":
        return "t"
    letter = stage.kind[0]
    for index, entry in enumerate(spec.evals):
        every = entry.of is Subject.CHECKPOINT_EVERY
        alone = spec.model_copy(update={"evals": (entry,)})
        for place, evaluation in enumerate(list_evaluations(alone, checkpoints)):
            if evaluation.name == stage.evaluation:
                return f"{letter}{index}c{place}" if every else f"{letter}{index}"
    raise AssertionError(f"{stage.text} is not a stage of this Run")
