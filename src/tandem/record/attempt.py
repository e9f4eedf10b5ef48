"""attempt.json: how an attempt in a cluster ended, kept before anything of it is deleted."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem.outcome import Outcome
from tandem.record.document import parse_document, to_bytes
from tandem.store import AlreadyThere, Store
from tandem.store.layout import RunPlace


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())


class PodEnd(_Document):
    """The last that was seen of one pod."""

    name: str
    uid: str
    """Names the pod's execution in the store."""
    node: str | None = None
    """None: it was never given one."""
    image_id: str | None = None
    """The image that ran, by digest. None: it was never pulled."""
    exit_code: int | None = None
    """None: the container was never seen to end."""
    reason: str | None = None
    """Kubernetes' word for the end, for example OOMKilled or Evicted."""
    outcome: Outcome
    """What the pod said at its end; if nothing, what its exit code and reason say."""
    started_at: str | None = None
    """UTC, ISO 8601. None: it never ran."""
    ended_at: str | None = None
    """UTC, ISO 8601."""
    log: str | None = None
    """Key of its log in the store. None: it could not be read any more."""


class PodSeen(_Document):
    """What was known of a pod when it was first seen to run, or to have ended."""

    schema_: Literal["tandem.dev/pod/v1"] = Field(default="tandem.dev/pod/v1", alias="schema")
    pod: PodEnd


class AttemptStart(_Document):
    """That an attempt's job is there: without it a job that is gone cannot be told from one never made."""

    schema_: Literal["tandem.dev/attempt-start/v1"] = Field(default="tandem.dev/attempt-start/v1", alias="schema")
    stage: str
    number: int
    job: str
    job_uid: str
    run_uid: str
    """The object in the cluster that asked for it."""
    created_at: str
    """UTC, ISO 8601."""


class AttemptEnd(_Document):
    """One ended attempt, whole."""

    schema_: Literal["tandem.dev/attempt/v1"] = Field(default="tandem.dev/attempt/v1", alias="schema")
    stage: str
    number: int
    job: str
    job_uid: str
    run_uid: str
    """The object in the cluster that asked for it: attempts of another one do not count for this."""
    pods: tuple[PodEnd, ...]
    outcome: Outcome
    """The strongest of its pods'."""
    started_at: str
    """When its first pod ran (UTC, ISO 8601); when it ended if none did."""
    ended_at: str


def write_attempt_start(store: Store, place: RunPlace, start: AttemptStart) -> None:
    """Note which job an attempt is; noting it again changes nothing."""
    with suppress(AlreadyThere):
        store.put_if_absent(place.attempt_start(start.stage, start.number), to_bytes(start))


def write_attempt_end(store: Store, place: RunPlace, end: AttemptEnd) -> AttemptEnd:
    """Keep how an attempt ended; returns the record that stands, which may be one written before. Raises Corrupt."""
    key = place.attempt_end(end.stage, end.number)
    try:
        store.put_if_absent(key, to_bytes(end))
    except AlreadyThere:
        return parse_document(AttemptEnd, store.get(key), where=key)
    return end


def write_pod(store: Store, place: RunPlace, start: AttemptStart, pod: PodEnd) -> None:
    """Keep what a pod shows now, once while it runs and once when it has ended; noting it again changes nothing."""
    moment = "started" if pod.exit_code is None else "ended"
    with suppress(AlreadyThere):
        key = f"{place.attempt_pods(start.stage, start.number)}{pod.uid}/{moment}.json"
        store.put_if_absent(key, to_bytes(PodSeen(pod=pod)))


def read_pods(store: Store, place: RunPlace, start: AttemptStart) -> dict[str, PodEnd]:
    """The last that was kept of each pod of an attempt, by uid. Raises Corrupt."""
    keys = [entry.key for entry in store.list(place.attempt_pods(start.stage, start.number))]
    seen = [parse_document(PodSeen, store.get(key), where=key).pod for key in keys]
    return {pod.uid: pod for pod in sorted(seen, key=lambda pod: pod.exit_code is not None)}


def write_attempt_log(store: Store, place: RunPlace, start: AttemptStart, pod: str, log: bytes) -> str:
    """Keep a pod's log, once, and return its key."""
    key = place.attempt_log(start.stage, start.number, pod)
    with suppress(AlreadyThere):
        store.put_if_absent(key, log)
    return key
