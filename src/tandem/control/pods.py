"""What jobs and pods say about themselves: whether they have ended, how, and what they wait for. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tandem.control.api import Object
from tandem.control.manifest import CONTAINERS
from tandem.control.names import QUEUE
from tandem.control.times import read_time, write_time
from tandem.errors import BadConfiguration, BadData, Stopped, Unavailable
from tandem.outcome import DONE, OUT_OF_MEMORY, Outcome, choose_strongest, parse_outcome_line
from tandem.record.attempt import PodEnd

INDEX = "batch.kubernetes.io/job-completion-index"
_FINISHED = ("Complete", "Failed", "Succeeded")
_CANNOT_START = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)
"""Reasons of waiting that do not go away by themselves."""

_BY_CODE = {
    BadData.exit_code: "bad-data",
    BadConfiguration.exit_code: "bad-configuration",
    Unavailable.exit_code: "unavailable",
    Stopped.exit_code: "stopped",
}


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why nothing of an attempt runs."""

    message: str
    is_stalled: bool
    """Whether it will stay so until someone does something."""
    remedy: str = ""


def is_finished(job: Object) -> bool:
    """Whether a Job or PyTorchJob has ended, well or not."""
    return _true_condition(job, _FINISHED) is not None


def is_successful(job: Object) -> bool:
    """Whether it has ended well."""
    return _true_condition(job, ("Complete", "Succeeded")) is not None


def is_over(pod: Object) -> bool:
    """Whether every container of a pod has ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def has_begun(pod: Object) -> bool:
    """Whether a node has it and a container of it may have said something."""
    return bool(pod["spec"].get("nodeName")) and (pod.get("status") or {}).get("phase") != "Pending"


def index_of(pod: Object) -> int:
    """The pod's place in its Indexed Job; 0 in any other."""
    metadata = pod["metadata"]
    for source in (metadata.get("labels") or {}, metadata.get("annotations") or {}):
        if str(source.get(INDEX, "")).isdigit():
            return int(source[INDEX])
    return 0


def find_container(pod: Object) -> str:
    """The name of the container that runs the stage."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    return next((name for name in names if name in CONTAINERS.values()), names[0])


def started_at(pods: Iterable[Object]) -> float | None:
    """When the first of these pods began to run its stage; None if none has."""
    times = [
        read_time(state["startedAt"])
        for pod in pods
        for state in (_container_state(pod, "running"), _container_state(pod, "terminated"))
        if state is not None and state.get("startedAt")
    ]
    return min(times, default=None)


def describe_end(pod: Object) -> PodEnd:
    """The last that is known of a pod, its log aside."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    ended = _container_state(pod, "terminated") or {}
    container = _container_status(pod)
    started = started_at([pod])
    return PodEnd(
        name=metadata["name"],
        uid=metadata["uid"],
        node=(pod.get("spec") or {}).get("nodeName"),
        image_id=container.get("imageID") or None,
        exit_code=ended.get("exitCode"),
        reason=status.get("reason") or ended.get("reason"),
        outcome=_outcome_of(pod),
        started_at=None if started is None else write_time(started),
        ended_at=ended.get("finishedAt"),
    )


def choose_outcome(job: Object | None, pods: Sequence[PodEnd]) -> Outcome:
    """How an attempt ended: the strongest of its pods', and what the job itself says where they say nothing.

    A job that succeeded is done, whatever became of pods that it no longer needed.
    """
    if job is not None and is_successful(job):
        return DONE
    if pods:
        return choose_strongest([pod.outcome for pod in pods])
    failed = None if job is None else _true_condition(job, ("Failed",))
    if failed is not None:
        message = f"the job has failed: {failed.get('reason')}: {failed.get('message')}"
        return Outcome(exit_code=1, code="job-failed", message=message, remedy="See the job's profile and its events.")
    return Outcome(
        exit_code=1,
        code="lost",
        message="the job is gone, and nobody saw how its pods ended",
        remedy="Find out who deletes jobs here; the attempt is repeated.",
    )


def why_waiting(job: Object, pods: Sequence[Object], workload: Object | None) -> Waiting | None:
    """What keeps an attempt from running; None if it runs or nothing is known yet."""
    if any(_container_state(pod, "running") for pod in pods):
        return None
    for pod in pods:
        name = pod["metadata"]["name"]
        state = _container_state(pod, "waiting") or _init_waiting(pod)
        if state is not None and state.get("reason") in _CANNOT_START:
            text = f"pod {name} cannot start: {state['reason']}: {state.get('message') or 'no message'}"
            return Waiting(message=text, is_stalled=True, remedy="Mend the profile (image, pull secret, Secret).")
        unscheduled = _condition(pod, "PodScheduled")
        if unscheduled.get("status") == "False":
            return Waiting(message=f"pod {name} has no node: {unscheduled.get('message')}", is_stalled=False)
    if _is_suspended(job):
        return _why_queued(job, workload)
    return None


def _why_queued(job: Object, workload: Object | None) -> Waiting:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    if workload is None:
        where = f"queue {queue}" if queue else "someone"
        return Waiting(
            message=f"{where} holds the job back, and there is no Workload for it yet",
            is_stalled=False,
            remedy="If none appears: Kueue must have the framework enabled for this kind of job.",
        )
    waiting = [
        condition
        for condition in (_condition(workload, "QuotaReserved"), _condition(workload, "Admitted"))
        if condition.get("status") == "False"
    ]
    reason = waiting[0].get("message") if waiting else "the Workload is not admitted yet"
    return Waiting(message=f"in queue {queue}: {reason}", is_stalled=False)


def _outcome_of(pod: Object) -> Outcome:
    status = pod.get("status") or {}
    ended = _container_state(pod, "terminated") or {}
    said = _parse_message(str(ended.get("message") or ""))
    code, reason = ended.get("exitCode"), status.get("reason") or ended.get("reason")
    if reason == "OOMKilled" and (said is None or said.exit_code == code):
        return Outcome(
            exit_code=137,
            code=OUT_OF_MEMORY,
            message=f"pod {pod['metadata']['name']} was killed for its memory",
            remedy="Raise the memory of its profile, or lower workers or the tokens of a batch.",
        )
    if said is not None:
        return said
    if code == 0:
        return DONE
    what = f"pod {pod['metadata']['name']}"
    if code is None:
        message = f"{what} was lost{_because(status)}"
        return Outcome(exit_code=1, code="lost", message=message, remedy="See its node and its events.")
    message = f"{what} ended with exit code {code}{_because({'reason': reason, 'message': status.get('message')})}"
    return Outcome(exit_code=code, code=_BY_CODE.get(code, "killed"), message=message, remedy="See its log.")


def _because(status: Any) -> str:
    parts = [str(part) for part in (status.get("reason"), status.get("message")) if part]
    return f" ({': '.join(parts)})" if parts else ""


def _parse_message(text: str) -> Outcome | None:
    """The outcome in a termination message, or in the end of a log that stands in for one."""
    for line in reversed(text.splitlines()):
        found = parse_outcome_line(line)
        if found is not None:
            return found
        try:
            return Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
    return None


def _container_status(pod: Object) -> Object:
    wanted = find_container(pod)
    statuses: list[Object] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in statuses if one["name"] == wanted), {})


def _container_state(pod: Object, state: str) -> Object | None:
    found: Object | None = (_container_status(pod).get("state") or {}).get(state)
    return found


def _init_waiting(pod: Object) -> Object | None:
    statuses: list[Object] = (pod.get("status") or {}).get("initContainerStatuses") or []
    states = [(one.get("state") or {}).get("waiting") for one in statuses]
    return next((state for state in states if state), None)


def _true_condition(one: Object, types: Sequence[str]) -> Object | None:
    conditions: list[Object] = (one.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") in types and c.get("status") == "True"), None)


def _condition(one: Object, type_: str) -> Object:
    conditions: list[Object] = (one.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == type_), {})


def _is_suspended(job: Object) -> bool:
    spec = job["spec"]
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))
