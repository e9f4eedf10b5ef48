"""A cluster in memory with a controller in it, and hands that do what operator, kubelet and pods would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.control.api import JOB, POD, PYTORCHJOB, RUN, Kind, Object
from tandem.control.assembly import assemble
from tandem.control.controller import Controller
from tandem.control.fake import FakeApi
from tandem.control.manifest import pod_templates
from tandem.control.names import STAGE, parse_job_stage
from tandem.control.pods import is_finished, is_over
from tandem.control.times import write_time
from tandem.outcome import DONE, Outcome
from tandem.record.run import Pin
from tandem.spec import RunSpec, run_id
from tandem.store import AlreadyThere, NotThere, Store
from tandem.store.directory import Directory
from tandem.store.files import digest_of
from tandem.store.layout import EXIT, RunPlace
from tandem.store.manifest import encode_manifest
from tests.control.profiles import write_profiles

NAMESPACE = "team"
STOPPED = Outcome(exit_code=143, code="stopped", message="told to stop", remedy="Go on.")
CRASH = Outcome(exit_code=1, code="unexpected", message="it broke", remedy="See the log.")
PERMANENT = Outcome(exit_code=65, code="bad-data", message="the data is wrong", remedy="Mend it.")

SPEC: dict[str, Any] = {
    "model": {"source": "s3://bucket/inputs/base"},
    "train": {
        "meta": "s3://bucket/inputs/data/train.meta.json",
        "ranks": 2,
        "batch": {"globalSize": 2},
        "steps": 4,
        "tiles": {"max": 2},
    },
    "evals": [{"name": "adapter", "data": "s3://bucket/inputs/data/held.json", "shards": 2}],
}


def pin_anything(spec: RunSpec) -> dict[str, Pin]:
    """Pins as if every input had been read."""
    source = spec.model.source
    return {"spec.model.source": Pin(text=source, location=source, digest="sha256:" + "0" * 64, files=1, size=1)}


@dataclass
class Lines:
    """A log that can be looked at."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **values: Any) -> None:
        """Keep a line."""
        self.said.append((event, values))

    warning = info


@dataclass(kw_only=True)
class World:
    """Everything but the Runs."""

    folder: Path
    api: FakeApi = field(default_factory=FakeApi)
    seconds: float = 1_800_000_000.0
    log: Lines = field(default_factory=Lines)
    profiles: Path = field(init=False)
    store: Store = field(init=False)
    controller: Controller = field(init=False)
    pods_made: int = 0

    def __post_init__(self) -> None:
        self.store = Directory(self.folder / "store")
        self.profiles = write_profiles(self.folder / "profiles")
        self.api.time = lambda: write_time(self.seconds)
        self.restart()

    def restart(self, spawn: Callable[[Callable[[], None]], Callable[[float], None]] | None = None) -> None:
        """A new controller: the one before is dead, and what it remembered is gone."""
        self.controller = assemble(
            self.api,
            self.store,
            namespace=NAMESPACE,
            profiles=self.profiles,
            pin=pin_anything,
            log=self.log,
            now=lambda: self.seconds,
            random=lambda: 0.5,
            spawn=spawn or at_once,
        )

    def apply(self, name: str = "demo", spec: dict[str, Any] | None = None) -> None:
        """What `kubectl apply` does with a new Run."""
        body = {"metadata": {"name": name}, "spec": SPEC if spec is None else spec}
        self.api.create(RUN, NAMESPACE, body)

    def want(self, desired: str, name: str = "demo") -> None:
        """Change what is desired."""
        self.api.merge(RUN, NAMESPACE, name, {"spec": {"desired": desired}})

    def run(self, name: str = "demo") -> Object:
        """The Run object."""
        return self.api.get(RUN, NAMESPACE, name)

    def status(self, name: str = "demo") -> Any:
        """Its status."""
        return self.run(name).get("status") or {}

    def place(self, name: str = "demo", spec: dict[str, Any] | None = None) -> RunPlace:
        """Its place in the store."""
        return RunPlace(namespace=NAMESPACE, run_id=run_id(name, SPEC if spec is None else spec))

    def settle(self, rounds: int = 10) -> None:
        """Let the controller see and do all that it can do now."""
        for _ in range(rounds):
            for mirror in self.controller.mirrors.all:
                self.controller.refresh(mirror)
            self.controller.tick()
            if not self.controller.work_once():
                return
            while self.controller.work_once():
                pass

    def pass_time(self, seconds: float) -> None:
        """Let time go by, and the controller look at what is due then."""
        self.seconds += seconds
        self.settle()

    def jobs(self) -> list[Object]:
        """Every job that is there, by name."""
        found = [one for kind in (JOB, PYTORCHJOB) for one in self.api.list(kind, NAMESPACE).items]
        return sorted(found, key=lambda one: str(one["metadata"]["name"]))

    def job_names(self) -> list[str]:
        """Their names without the Run's id."""
        return [one["metadata"]["name"].split("-", 2)[2] for one in self.jobs()]

    def pods(self, job: str | None = None) -> list[Object]:
        """Every pod, or those of one job (its name without the Run's id)."""
        found = [dict(one) for one in self.api.list(POD, NAMESPACE).items]
        return [one for one in found if job is None or f"-{job}-" in one["metadata"]["name"]]

    def start_pods(self) -> list[Object]:
        """What operator, scheduler and kubelet do: every job gets its pods, and they run."""
        made = []
        for job in self.jobs():
            metadata = job["metadata"]
            have = [one for one in self.pods() if one["metadata"]["ownerReferences"][0]["uid"] == metadata["uid"]]
            if have or is_finished(job) or "deletionTimestamp" in metadata:
                continue
            for index, template in _each_pod(job):
                made.append(self._make_pod(job, index, template))
        return made

    def end_pod(self, pod: Object, outcome: Outcome = DONE, log: bytes = b"a line\n", **files: Any) -> None:
        """What a pod does at its end: its execution, its last words, its log."""
        metadata = pod["metadata"]
        stage = self.stage_of(pod)
        place = RunPlace(namespace=NAMESPACE, run_id=metadata["labels"]["tandem.dev/run-id"])
        if not metadata["name"].rpartition("-")[0].endswith("worker"):
            self.write_execution(place, stage, metadata["uid"], outcome, **files)
        self.api.logs[NAMESPACE, metadata["name"]] = log
        ended = {
            "exitCode": outcome.exit_code,
            "reason": "Completed" if outcome == DONE else "Error",
            "message": outcome.to_json(),
            "startedAt": _container(pod)["state"]["running"]["startedAt"],
            "finishedAt": write_time(self.seconds),
        }
        self._set_state(pod, "Succeeded" if outcome == DONE else "Failed", {"terminated": ended})
        if "deletionTimestamp" in metadata:
            self.api.remove(POD, NAMESPACE, metadata["name"])

    def end_jobs(self) -> None:
        """What operator and job controller do: jobs whose pods have ended say so."""
        for job in self.jobs():
            uid = job["metadata"]["uid"]
            pods = [one for one in self.pods() if one["metadata"]["ownerReferences"][0]["uid"] == uid]
            if not pods or not all(is_over(pod) for pod in pods) or is_finished(job):
                continue
            well = all(pod["status"]["phase"] == "Succeeded" for pod in pods)
            good = "Succeeded" if job["kind"] == "PyTorchJob" else "Complete"
            condition = {"type": good if well else "Failed", "status": "True", "reason": "AsTold", "message": "by hand"}
            self.api.change(_kind(job), NAMESPACE, job["metadata"]["name"], {"status": {"conditions": [condition]}})

    def end_stopped(self) -> None:
        """What pods do that were told to stop: they save their work and are gone."""
        for pod in self.pods():
            if "deletionTimestamp" in pod["metadata"]:
                self.end_pod(pod, STOPPED, log=b"saved\n")

    def play(self, outcome_of: Callable[[str], Outcome] = lambda _: DONE, rounds: int = 30) -> str:
        """Go on until the Run has ended; `outcome_of` says how the pods of a stage end. Returns its phase."""
        for _ in range(rounds):
            self.settle()
            if self.status().get("phase") in ("Succeeded", "Failed", "Cancelled"):
                return str(self.status()["phase"])
            self.play_jobs(outcome_of)
        raise AssertionError(f"the Run did not end: {self.status()}")

    def play_jobs(self, outcome_of: Callable[[str], Outcome] = lambda _: DONE) -> None:
        """Start what waits and end it."""
        self.start_pods()
        self.pass_time(60)
        for pod in self.pods():
            if not is_over(pod):
                self.end_pod(pod, outcome_of(self.stage_of(pod)))
        self.end_jobs()
        self.pass_time(60)

    def stage_of(self, pod: Object) -> str:
        """The stage that a pod makes."""
        stage = parse_job_stage(pod["metadata"]["annotations"][STAGE])
        index = int(pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", 0))
        return stage.stages[index] if stage.kind == "generate" else stage.stages[0]

    def write_execution(self, place: RunPlace, stage: str, name: str, outcome: Outcome, **files: Any) -> None:
        """What an attempt writes into the store."""
        contents = {EXIT: outcome.to_json().encode(), **{key: value.encode() for key, value in files.items()}}
        if stage.startswith("score/"):
            contents["result.json"] = json.dumps(RESULT).encode()
        prefix = place.execution(stage, name)
        for path, body in contents.items():
            self.put(f"{prefix}{path}", body)
        if outcome == DONE:
            manifest = {path: digest_of(body) for path, body in contents.items()}
            self.put(f"{prefix}manifest.json", encode_manifest(manifest))

    def put(self, key: str, body: bytes) -> None:
        """Write an object unless it is there."""
        try:
            self.store.put_if_absent(key, body)
        except AlreadyThere:
            return

    def read(self, key: str) -> Any:
        """A JSON object of the store; None if there is none."""
        try:
            return json.loads(self.store.get(key))
        except NotThere:
            return None

    def _make_pod(self, job: Object, index: int, template: Object) -> Object:
        self.pods_made += 1
        metadata, inner = job["metadata"], template["metadata"]
        role = f"{'master-0' if index == 0 else f'worker-{index - 1}'}" if job["kind"] == "PyTorchJob" else f"{index}"
        labels = {**inner["labels"], "batch.kubernetes.io/job-completion-index": str(index)}
        if job["kind"] == "PyTorchJob" or "completionMode" not in job["spec"]:
            labels.pop("batch.kubernetes.io/job-completion-index")
        name = f"{metadata['name']}-{role}"
        body = {
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": inner["annotations"],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": job["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {**template["spec"], "nodeName": "node-1"},
        }
        pod = self.api.create(POD, NAMESPACE, body)
        self.api.logs[NAMESPACE, name] = b"step 1/4\n"
        return self._set_state(pod, "Running", {"running": {"startedAt": write_time(self.seconds)}})

    def _set_state(self, pod: Object, phase: str, state: Object) -> Object:
        container = pod["spec"]["containers"][0]["name"]
        status = {"name": container, "state": state, "imageID": "registry.example/tandem@sha256:" + "b" * 64}
        change = {"status": {"phase": phase, "containerStatuses": [status]}}
        return self.api.change(POD, NAMESPACE, pod["metadata"]["name"], change)


RESULT = {
    "metrics": {
        "marker_rate": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 3},
        "accuracy": {
            "all": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4},
            "closed": {"value": None, "low": None, "high": None, "n": 0},
            "open": {"value": 0.5, "low": None, "high": None, "n": 4},
        },
        "exact": {"all": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}},
        "bertscore_f1": {
            "answered": {"value": None, "low": None, "high": None, "n": 0},
            "missing_as_zero": {"value": None, "low": None, "high": None, "n": 0},
        },
    }
}


def at_once(work: Callable[[], None]) -> Callable[[float], None]:
    """Do it now; then there is nothing to wait for."""
    work()
    return lambda _: None


def _each_pod(job: Object) -> list[tuple[int, Object]]:
    if job["kind"] == "PyTorchJob":
        replicas = job["spec"]["pytorchReplicaSpecs"].values()
        return list(enumerate(one["template"] for one in replicas for _ in range(one["replicas"])))
    (template,) = pod_templates(job)
    return [(index, template) for index in range(job["spec"].get("completions", 1))]


def _kind(job: Object) -> Kind:
    return PYTORCHJOB if job["kind"] == "PyTorchJob" else JOB


def _container(pod: Object) -> Any:
    return pod["status"]["containerStatuses"][0]
