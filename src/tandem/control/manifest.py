"""The manifest of one job: a profile's, with a closed list of fields set. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.control.names import (
    ATTEMPT,
    MANAGED_BY,
    MANAGER,
    PART_OF,
    RUN_ID,
    RUN_SHA256,
    STAGE,
    JobStage,
)
from tandem.spec.run import API_VERSION, KIND
from tandem.stage.facts import Facts, to_environment

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

CONTAINERS = {"PyTorchJob": "pytorch", "Job": "tandem"}
"""The container that runs the stage, by the kind of job."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The Run object that a job belongs to."""

    name: str
    uid: str


def build_job(manifest: Mapping[str, Any], *, name: str, stage: JobStage, facts: Facts, owner: Owner) -> Object:
    """A job ready to create from a profile's manifest, or from one that was built before for the same stage."""
    job: Object = copy.deepcopy(dict(manifest))
    labels = {
        PART_OF: "tandem",
        MANAGED_BY: MANAGER,
        RUN_ID: facts.place.run_id,
        STAGE: stage.kind,
        ATTEMPT: str(facts.attempt),
    }
    metadata = job.setdefault("metadata", {})
    metadata["name"] = name
    metadata["namespace"] = facts.place.namespace
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    annotations = {RUN_SHA256: facts.run_sha256, STAGE: stage.text}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
    metadata["ownerReferences"] = [
        {"apiVersion": API_VERSION, "kind": KIND, "name": owner.name, "uid": owner.uid, "controller": True}
    ]
    for template in pod_templates(job):
        inner = template.setdefault("metadata", {})
        inner["labels"] = {**(inner.get("labels") or {}), **labels}
        inner["annotations"] = {**(inner.get("annotations") or {}), **annotations}
        _set_environment(stage_container(job, template), to_environment(facts))
    if stage.kind == "generate":
        job["spec"]["completions"] = job["spec"]["parallelism"] = len(stage.parts)
    return job


def pod_templates(job: Mapping[str, Any]) -> list[Object]:
    """Every pod template of a Job or PyTorchJob."""
    spec = job["spec"]
    if job["kind"] == "Job":
        return [spec["template"]]
    return [replica["template"] for replica in spec["pytorchReplicaSpecs"].values()]


def stage_container(job: Mapping[str, Any], template: Mapping[str, Any]) -> Object:
    """The container of a pod template that runs the stage. Raises KeyError if there is none."""
    wanted = CONTAINERS[job["kind"]]
    for container in template["spec"]["containers"]:
        if container["name"] == wanted:
            found: Object = container
            return found
    raise KeyError(wanted)


def _set_environment(container: Object, values: Mapping[str, str]) -> None:
    kept = [entry for entry in container.get("env") or [] if entry["name"] not in values]
    container["env"] = [*kept, *({"name": name, "value": value} for name, value in values.items())]
