"""A job of a Run that is in the cluster, or was, and its pods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.control.api import Object
from tandem.control.names import ATTEMPT, STAGE, JobStage, parse_job_stage
from tandem.control.pods import index_of
from tandem.record.attempt import AttemptStart


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A job of this Run that is in the cluster, or was, and its pods."""

    job: Object
    stage: JobStage
    number: int
    pods: tuple[Object, ...]
    gone: tuple[Object, ...] = ()
    """Its deleted pods as they were last seen."""

    @property
    def name(self) -> str:
        """The job's."""
        return str(self.job["metadata"]["name"])

    @property
    def uid(self) -> str:
        """The job's."""
        return str(self.job["metadata"]["uid"])

    @property
    def is_leaving(self) -> bool:
        """Whether it is being deleted."""
        return "deletionTimestamp" in self.job["metadata"]

    def pods_of(self, stage: str) -> list[Object]:
        """The pods that make one of its stages, the deleted ones after those that are there."""
        pods = [*self.pods, *self.gone]
        if self.stage.kind != "generate":
            return pods
        place = self.stage.stages.index(stage)
        return [pod for pod in pods if index_of(pod) == place]


def read_live_job(job: Object, pods: Sequence[Object], gone: Sequence[Object]) -> LiveJob | None:
    """A job with what its labels say; None if a controller did not make it."""
    metadata = job["metadata"]
    try:
        stage = parse_job_stage((metadata.get("annotations") or {})[STAGE])
        number = int((metadata.get("labels") or {})[ATTEMPT])
    except (KeyError, ValueError):
        return None
    return LiveJob(job=job, stage=stage, number=number, pods=tuple(pods), gone=tuple(gone))


def infer_job(pods: Sequence[Object], gone: Sequence[Object]) -> LiveJob | None:
    """A job that has been deleted before its pods have ended, as they tell; None if they are not a controller's."""
    metadata = pods[0]["metadata"]
    reference = next(one for one in metadata["ownerReferences"] if one.get("controller"))
    job: Object = {
        "kind": reference["kind"],
        "metadata": {
            "name": reference["name"],
            "uid": reference["uid"],
            "labels": metadata.get("labels") or {},
            "annotations": metadata.get("annotations") or {},
            "creationTimestamp": metadata["creationTimestamp"],
            "deletionTimestamp": metadata.get("deletionTimestamp") or metadata["creationTimestamp"],
        },
        "spec": {},
    }
    return read_live_job(job, pods, gone)


def remember_job(start: AttemptStart, pods: Sequence[Object]) -> LiveJob:
    """A job that is gone, as the store and its last pods tell."""
    job: Object = {"kind": "Job", "metadata": {"name": start.job, "uid": start.job_uid}, "spec": {}}
    texts = [text for pod in pods if (text := (pod["metadata"].get("annotations") or {}).get(STAGE))]
    stage = parse_job_stage(texts[0] if texts else start.stage)
    return LiveJob(job=job, stage=stage, number=start.number, pods=(), gone=tuple(pods))
