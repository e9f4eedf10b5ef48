"""A Run object as the controller takes it up: its record in the store, and what makes and follows its attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem.control.api import Api, Object
from tandem.control.collect import Collector
from tandem.control.jobs import JobBackend
from tandem.control.live import LiveJob, infer_job, read_live_job
from tandem.control.making import JobMaker
from tandem.control.manifest import Owner
from tandem.control.notices import Notices
from tandem.control.pods import is_over
from tandem.control.profiles import Profiles
from tandem.control.seen import LastSeen, LogTails, owner_uid, run_id_of
from tandem.control.settling import Settler
from tandem.control.stored import RunRecords
from tandem.control.watch import Mirror
from tandem.errors import BadConfiguration, Fault
from tandem.progress import Progress
from tandem.record.run import Pin, RunRecord, parse_record, write_record
from tandem.report.figures import Figure
from tandem.spec import RunSpec, Submission, sha256_hex, spec_digest
from tandem.store import NotThere, Store
from tandem.store.layout import RunPlace


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """What the controller watches in its namespace."""

    runs: Mirror
    jobs: Mirror
    pytorchjobs: Mirror
    pods: Mirror

    @property
    def all(self) -> tuple[Mirror, ...]:
        """Each of them."""
        return self.runs, self.jobs, self.pytorchjobs, self.pods


@dataclass(kw_only=True)
class Tracked:
    """What is remembered of a Run object between looks; all of it can be found out again."""

    place: RunPlace
    spec: RunSpec
    backend: JobBackend
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    """By stage."""
    first_progress: dict[str, tuple[float, Progress]] = field(default_factory=dict)
    """By job: when its first progress was seen, and what it was."""
    last_refusal: str = ""


@dataclass(kw_only=True)
class Tracker:
    """Takes up Runs of one namespace."""

    api: Api
    store: Store
    namespace: str
    mirrors: Mirrors
    seen: LastSeen
    tails: LogTails
    read_profiles: Callable[[], Profiles]
    pin: Callable[[RunSpec], dict[str, Pin]]
    """Says which bytes each input is. Raises BadConfiguration for what a cluster cannot reach."""
    notices: Notices
    now: Callable[[], float]

    def note_pod(self, pod: Object, is_gone: bool) -> None:
        """Keep how a deleted pod was last seen, and read the logs of those that are about to go.

        That is: somebody drains its node, evicts or deletes it, or the operator will, which removes what it takes to be
        running still once the master has ended. Looks at Runs may be waiting for a store meanwhile.
        """
        if is_gone:
            self.seen.note_gone(pod)
            return
        job = owner_uid(pod)
        if job is None or self.seen.is_recorded(job):
            return
        others = [one for one in self.mirrors.pods.find(run_id_of(pod) or "") if owner_uid(one) == job]
        is_ending = any(is_over(one) for one in others)
        for one in others:
            if "deletionTimestamp" in one["metadata"] or (is_ending and not is_over(one)):
                self.tails.follow(self.namespace, one)

    def track(self, run: Object, submission: Submission, place: RunPlace) -> Tracked:
        """Take up a Run; its record is written if it is not there yet.

        Raises BadConfiguration and BadData for what only another spec can cure, Unavailable while the store is away.
        """
        body, record = self._ensure_record(run, submission, place)
        return self._build(run, body, record, place)

    def track_gone(self, run: Object, place: RunPlace) -> Tracked | None:
        """Take up what a deleted Run object has left; None if its Run was never accepted."""
        try:
            body = self.store.get(place.record)
        except NotThere:
            return None
        return self._build(run, body, parse_record(body, where=place.record), place)

    def _build(self, run: Object, body: bytes, record: RunRecord, place: RunPlace) -> Tracked:
        metadata = run["metadata"]
        spec = record.parse_spec()
        records = RunRecords(store=self.store, place=place)
        collector = Collector(
            api=self.api,
            store=self.store,
            place=place,
            records=records,
            seen=self.seen,
            tails=self.tails,
            now=self.now,
        )

        def notice(reason: str, stage: str, attempt: int | None, message: str) -> None:
            known = {} if attempt is None else {"attempt": attempt}
            self.notices.tell(run, reason, message, run_id=place.run_id, stage=stage, **known)

        maker = JobMaker(
            api=self.api,
            store=self.store,
            place=place,
            spec=spec,
            record_sha256=sha256_hex(body),
            owner=Owner(name=metadata["name"], uid=metadata["uid"]),
            read_profiles=self.read_profiles,
        )
        settler = Settler(
            api=self.api,
            store=self.store,
            place=place,
            owner_uid=metadata["uid"],
            collector=collector,
            notice=notice,
        )
        backend = JobBackend(
            api=self.api,
            store=self.store,
            place=place,
            owner_uid=metadata["uid"],
            maker=maker,
            records=records,
            settler=settler,
            list_jobs=lambda: self._list_jobs(place.run_id),
            now=self.now,
            notice=notice,
        )
        return Tracked(place=place, spec=spec, backend=backend)

    def _ensure_record(self, run: Object, submission: Submission, place: RunPlace) -> tuple[bytes, RunRecord]:
        try:
            body = self.store.get(place.record)
        except NotThere:
            created = run["metadata"]["creationTimestamp"]
            _, body = write_record(
                self.store,
                submission,
                self.pin(submission.run.spec),
                namespace=self.namespace,
                submitted_at=created,
                again=False,
            )
            self.notices.tell(run, "Accepted", f"{place.run_id}: inputs pinned, run.json written", run_id=place.run_id)
        record = parse_record(body, where=place.record)
        if spec_digest(record.spec) != spec_digest(submission.spec):
            what = "another spec with the same ten digits is already there"
            raise BadConfiguration(Fault(where=place.run_id, what=what, remedy="Give the Run another name."))
        return body, record

    def _list_jobs(self, run_id_: str) -> Sequence[LiveJob]:
        pods: dict[str | None, list[Object]] = {}
        for pod in self.mirrors.pods.find(run_id_):
            pods.setdefault(owner_uid(pod), []).append(pod)
        jobs = [*self.mirrors.jobs.find(run_id_), *self.mirrors.pytorchjobs.find(run_id_)]
        found = []
        for job in jobs:
            uid = job["metadata"]["uid"]
            found.append(read_live_job(job, pods.pop(uid, ()), self.seen.find_gone(uid)))
        for uid, theirs in pods.items():
            if uid is not None:
                found.append(infer_job(theirs, self.seen.find_gone(uid)))
        return [one for one in found if one is not None]
