"""Attempts as Jobs and PyTorchJobs: what is live comes from the cluster, what has ended from the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tandem.control.api import JOB_KINDS, AlreadyExists, Api, Busy, NotFound, Object, Refused
from tandem.control.collect import Collector
from tandem.control.manifest import Owner, build_job
from tandem.control.names import ATTEMPT, RUN_SHA256, STAGE, JobStage, join_shards, name_job, parse_job_stage
from tandem.control.plan import Attempt, Commit, Observed, Start, State, Stop
from tandem.control.pods import find_container, index_of, is_finished, is_over, started_at
from tandem.control.profiles import Profiles, choose_profile, use_of
from tandem.control.seen import owner_uid
from tandem.control.settings import ensure_settings, read_checkpoints
from tandem.control.stages import Kind, Stage
from tandem.control.stored import RunRecords, StageRecords
from tandem.control.times import read_time, write_time
from tandem.errors import BadConfiguration, Fault
from tandem.record.attempt import AttemptEnd, AttemptStart, write_attempt_start
from tandem.record.commit import write_commit
from tandem.spec import RunSpec, canonical_json
from tandem.stage.facts import Facts
from tandem.store import AlreadyThere, Corrupt, NotThere, Store
from tandem.store.layout import RunPlace

SLOTS = dict.fromkeys(Kind, 1_000_000)
"""Attempts of a Run that may exist at once: the cluster's queue decides how many of them run."""

JOB_SCHEMA = "tandem.dev/job/v1"


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


@dataclass(kw_only=True)
class JobBackend:
    """The attempts of one Run object."""

    api: Api
    store: Store
    place: RunPlace
    spec: RunSpec
    record_sha256: str
    owner: Owner
    records: RunRecords
    collector: Collector
    list_jobs: Callable[[], Sequence[LiveJob]]
    """The Run's jobs as the cluster was last seen."""
    read_profiles: Callable[[], Profiles]
    now: Callable[[], float]
    notice: Callable[[str, str, int | None, str], None]
    """Told what happened: a CamelCase reason, the stage, the attempt's number, one line."""
    live: tuple[LiveJob, ...] = ()
    """Jobs that had not been recorded when last observed."""
    found: dict[str, StageRecords] = field(default_factory=dict)
    """What the store had of each stage when last observed."""
    broken: set[str] = field(default_factory=set)
    """Executions whose manifest did not hold what it promised."""

    @property
    def own_ends(self) -> list[AttemptEnd]:
        """Ended attempts that this object asked for: those of an earlier one do not count for it."""
        ends = (end for found in self.found.values() for end in found.ends.values())
        return [end for end in ends if end.run_uid == self.owner.uid]

    def observe(self, stages: tuple[Stage, ...]) -> Observed:
        """What is committed, complete, live and ended; ended attempts are recorded and their jobs deleted first."""
        names = [stage.name for stage in stages]
        records = self.records.look(names)
        live = self._settle(list(self.list_jobs()), records)
        self.live = tuple(live)
        self.found = records
        attempts = [_ended(end) for end in self.own_ends]
        attempts += [attempt for one in live for attempt in self._attempts_of(one, records)]
        complete = {
            name: whole[-1]
            for name in names
            if records[name].commit is None
            and (whole := [e for e, is_whole in records[name].executions.items() if is_whole and e not in self.broken])
        }
        return Observed(
            committed=frozenset(name for name in names if records[name].commit is not None),
            complete=complete,
            attempts=tuple(attempts),
            next_number=self._next_numbers(names, records, live),
            slots=SLOTS,
        )

    def start(self, actions: Sequence[Start]) -> None:
        """Make a job for each stage, one for all shards of an evaluation."""
        numbers = {action.stage: action.number for action in actions}
        for stage in join_shards(tuple(numbers)):
            self._start(stage, numbers[stage.stages[0]])

    def stop(self, action: Stop) -> None:
        """Delete the attempt's job: its pods get SIGTERM and their grace period; their logs are read to the end."""
        for one in self.live:
            if action.stage in one.stage.stages and one.number == action.number and not one.is_leaving:
                for pod in one.pods:
                    if not is_over(pod) and "deletionTimestamp" not in pod["metadata"]:
                        self.collector.tails.follow(self.place.namespace, pod, find_container(pod))
                kind = JOB_KINDS[one.job["kind"]]
                self.api.delete(kind, self.place.namespace, one.name, uid=one.uid, propagation="Foreground")
                one.job["metadata"].setdefault("deletionTimestamp", write_time(self.now()))
                self.notice("AttemptStopped", one.stage.text, one.number, f"{one.name}: {action.reason}")

    def commit(self, action: Commit) -> None:
        """Let an execution count if it is whole; if not, it is never looked at again."""
        try:
            write_commit(self.store, self.place, action.stage, action.execution, write_time(self.now()))
        except Corrupt as error:
            self.broken.add(action.execution)
            self.notice("NotCounted", action.stage, None, str(error))
        else:
            self.notice("Committed", action.stage, None, f"{action.stage}: execution {action.execution} counts")

    def _settle(self, jobs: list[LiveJob], records: dict[str, StageRecords]) -> list[LiveJob]:
        """Note jobs, record those that have ended, delete them; returns those that have not."""
        live = []
        for one in jobs:
            kept = [records[stage] for stage in one.stage.stages if stage in records]
            if kept and all(_is_recorded(one, record) for record in kept):
                self._delete(one)
                continue
            self._note(one, records)
            if is_finished(one.job) and all(is_over(pod) for pod in one.pods):
                self._record(one.job, one, one.stage.stages, one.number, records)
                self._delete(one)
                self.collector.seen.forget(one.uid)
            else:
                live.append(one)
        self._settle_gone(live, records)
        return live

    def _settle_gone(self, live: list[LiveJob], records: dict[str, StageRecords]) -> None:
        """Record attempts whose job was there and is gone."""
        known: dict[str, bool] = {one.uid: True for one in live}
        gone: set[str] = set()
        for stage, record in records.items():
            for start in record.open_starts:
                if start.job_uid not in known:
                    one = self._find_job(start)
                    known[start.job_uid] = one is not None
                    live += [one] if one is not None else []
                if not known[start.job_uid]:
                    pods = self.collector.seen.find_gone(start.job_uid)
                    self._record(None, _gone_job(start, pods), (stage,), start.number, records)
                    gone.add(start.job_uid)
        for uid in gone:
            self.collector.seen.forget(uid)

    def _find_job(self, start: AttemptStart) -> LiveJob | None:
        """Ask the server itself: what was last seen of the cluster may be older than the job."""
        for kind in JOB_KINDS.values():
            with suppress(NotFound):
                job = self.api.get(kind, self.place.namespace, start.job)
                return read_live_job(job, (), ()) if job["metadata"]["uid"] == start.job_uid else None
        return None

    def _note(self, one: LiveJob, records: dict[str, StageRecords]) -> None:
        for stage in one.stage.stages:
            if stage in records and one.number not in records[stage].starts:
                records[stage].starts[one.number] = self._write_start(one.job, stage, one.number)

    def _write_start(self, job: Object, stage: str, number: int) -> AttemptStart:
        metadata = job["metadata"]
        start = AttemptStart(
            stage=stage,
            number=number,
            job=metadata["name"],
            job_uid=metadata["uid"],
            run_uid=owner_uid(job) or self.owner.uid,
            created_at=metadata["creationTimestamp"],
        )
        write_attempt_start(self.store, self.place, start)
        return start

    def _record(
        self,
        job: Object | None,
        one: LiveJob,
        stages: tuple[str, ...],
        number: int,
        records: dict[str, StageRecords],
    ) -> None:
        for stage in stages:
            if stage not in records or number in records[stage].ends:
                continue
            start = records[stage].starts[number]
            claimed = {pod.uid for end in records[stage].ends.values() for pod in end.pods}
            unclaimed = [name for name in records[stage].executions if name not in claimed]
            end = self.collector.record(job, start, one.pods_of(stage), unclaimed)
            records[stage].ends[number] = end
            said = f"{end.outcome.code}: {end.outcome.message}".removesuffix(": ")
            self.notice("AttemptEnded", stage, number, f"{start.job}: {said}")

    def _delete(self, one: LiveJob) -> None:
        if not one.is_leaving:
            kind = JOB_KINDS[one.job["kind"]]
            self.api.delete(kind, self.place.namespace, one.name, uid=one.uid, propagation="Background")

    def _attempts_of(self, one: LiveJob, records: dict[str, StageRecords]) -> list[Attempt]:
        state = State.STOPPING if one.is_leaving or is_finished(one.job) else State.RUNNING
        return [
            Attempt(
                stage=stage,
                number=one.number,
                state=state,
                started_at=min(started_at(one.pods_of(stage)) or self.now(), self.now()),
            )
            for stage in one.stage.stages
            if stage in records and not _is_recorded(one, records[stage])
        ]

    def _next_numbers(
        self, names: list[str], records: dict[str, StageRecords], live: Sequence[LiveJob]
    ) -> dict[str, int]:
        """The shards of an evaluation count together, for they share their jobs."""
        last: dict[str, int] = {}
        for name in names:
            group = _group(name)
            last[group] = max(last.get(group, 0), records[name].last_number)
        for one in live:
            for stage in one.stage.stages:
                last[_group(stage)] = max(last.get(_group(stage), 0), one.number)
        return {name: last[_group(name)] + 1 for name in names}

    def _start(self, stage: JobStage, number: int) -> None:
        name = name_job(self.place.run_id, self.spec, read_checkpoints(self.store, self.place), stage, number)
        if stage.kind == "score":
            ensure_settings(self.store, self.place, self.spec, stage.stages[0])
        facts = Facts(
            store_url=self.store.url,
            place=self.place,
            run_sha256=self.record_sha256,
            stage=stage.text,
            attempt=number,
        )
        manifest = build_job(
            self._find_manifest(stage, facts, name), name=name, stage=stage, facts=facts, owner=self.owner
        )
        kind = JOB_KINDS[manifest["kind"]]
        try:
            made = self.api.create(kind, self.place.namespace, manifest)
        except AlreadyExists:
            made = self.api.get(kind, self.place.namespace, name)
            self._require_same(made, manifest)
        except NotFound as error:
            raise _not_served(manifest, error) from None
        for one in stage.stages:
            self._write_start(made, one, number)
        self.notice("AttemptStarted", stage.text, number, f"{name}: attempt {number} of {stage.text}")

    def _find_manifest(self, stage: JobStage, facts: Facts, name: str) -> Object:
        """The manifest of the stage's first attempt; if this is the first, the profile's, and it is kept."""
        key = self.place.job(stage.stages[0])
        with suppress(NotThere):
            kept: Object = json.loads(self.store.get(key))["manifest"]
            return kept
        chosen = choose_profile(self.read_profiles(), self.spec, use_of(stage, self.spec))
        manifest = build_job(chosen.profile.manifest, name=name, stage=stage, facts=facts, owner=self.owner)
        kind = JOB_KINDS[manifest["kind"]]
        # Only what the server takes is kept, or a profile that was mended later would change nothing.
        try:
            self.api.create(kind, self.place.namespace, manifest, dry_run=True)
        except AlreadyExists:
            pass
        except NotFound as error:
            raise _not_served(manifest, error) from None
        except Refused as error:
            raise BadConfiguration(
                [
                    Fault(where=f"profile {chosen.name}", what=fault.what, remedy="Have the platform team mend it.")
                    for fault in error.faults
                ]
            ) from None
        with suppress(AlreadyThere):
            body = {"schema": JOB_SCHEMA, "profile": chosen.name, "manifest": manifest}
            self.store.put_if_absent(key, canonical_json(body))
        return manifest

    def _require_same(self, found: Object, wanted: Object) -> None:
        """The job that has our name must be the attempt that was to be made, and there to stay."""
        name = wanted["metadata"]["name"]
        ours = {key: wanted["metadata"]["annotations"][key] for key in (RUN_SHA256, STAGE)}
        theirs = found["metadata"].get("annotations") or {}
        if any(theirs.get(key) != value for key, value in ours.items()):
            what = "is there already, and belongs to something else"
            raise BadConfiguration(Fault(where=f"job {name}", what=what, remedy="Delete it, or rename the Run."))
        if "deletionTimestamp" in found["metadata"] or owner_uid(found) != self.owner.uid:
            what = "is still there from before, and is being deleted"
            raise Busy(Fault(where=f"job {name}", what=what, remedy="Wait until its pods have ended."))


def _ended(end: AttemptEnd) -> Attempt:
    return Attempt(
        stage=end.stage,
        number=end.number,
        state=State.ENDED,
        started_at=read_time(end.started_at),
        ended_at=read_time(end.ended_at),
        outcome=end.outcome,
    )


def _is_recorded(one: LiveJob, record: StageRecords) -> bool:
    end = record.ends.get(one.number)
    return end is not None and end.job_uid == one.uid


def _group(stage: str) -> str:
    return stage.rpartition("/")[0] if stage.startswith("generate/") else stage


def _gone_job(start: AttemptStart, pods: list[Object]) -> LiveJob:
    job: Object = {"kind": "Job", "metadata": {"name": start.job, "uid": start.job_uid}, "spec": {}}
    texts = [text for pod in pods if (text := (pod["metadata"].get("annotations") or {}).get(STAGE))]
    stage = parse_job_stage(texts[0] if texts else start.stage)
    return LiveJob(job=job, stage=stage, number=start.number, pods=(), gone=tuple(pods))


def _not_served(manifest: Object, error: NotFound) -> BadConfiguration:
    what = f"the cluster knows no {manifest['kind']} ({error.faults[0].what})"
    remedy = "Have the platform team install the training operator (tandem check --cluster names all that is missing)."
    return BadConfiguration(Fault(where=manifest["kind"], what=what, remedy=remedy))
