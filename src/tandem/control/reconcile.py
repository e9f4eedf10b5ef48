"""One look at one Run object: what it asks for is brought one step further, and its status says how it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tandem.control.api import RUN, WORKLOAD, Api, Busy, Forbidden, NotFound, Object
from tandem.control.collect import Collector
from tandem.control.jobs import JobBackend, LiveJob, read_live_job
from tandem.control.loop import Step, take_step
from tandem.control.manifest import Owner
from tandem.control.names import MANAGER
from tandem.control.notices import Notices
from tandem.control.plan import Finish
from tandem.control.pods import Waiting, find_container, started_at, why_waiting
from tandem.control.profiles import Profiles
from tandem.control.seen import LastSeen, LogTails, owner_uid
from tandem.control.settings import list_run_stages
from tandem.control.status import (
    FINAL,
    View,
    build_status,
    describe_attempt,
    describe_progress,
    finished_at,
    hold_status,
)
from tandem.control.stored import RunRecords
from tandem.control.times import read_time, write_time
from tandem.control.watch import Mirror
from tandem.errors import BadConfiguration, BadData, Fault, PermanentError, TandemError
from tandem.outcome import Outcome, describe_failure
from tandem.progress import Progress, add_progress, last_progress
from tandem.record.asked import Asked, Ended, list_open, note_asked, note_ended, read_ended
from tandem.record.commit import read_commit, read_file
from tandem.record.run import Pin, RunRecord, parse_record, write_record
from tandem.report.figures import Figure, list_figures
from tandem.spec import Desired, RunSpec, Submission, parse_object, run_id, sha256_hex, spec_digest
from tandem.spec.status import AttemptSection, Phase, ProgressSection
from tandem.store import NotThere, Store
from tandem.store.layout import RunPlace

LOOK_SECONDS = 15.0
"""How often a Run with live attempts is looked at even if nothing changes: for its progress."""

IDLE_SECONDS = 300.0
"""The same for one that waits for people."""

MOST_STEPS = 50
"""Steps of one look; the next look goes on."""

TAIL_LINES = 50
"""Lines of a log among which the newest progress is looked for."""

_DELETED = Outcome(
    exit_code=0,
    code="deleted",
    message="the Run object was deleted before its end",
    remedy="Apply it again: what is committed is adopted, and training goes on from its newest checkpoint.",
)


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
class Reconciler:
    """Looks at Runs, one at a time each; several may be looked at at once."""

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
    deleted: dict[str, Object] = field(default_factory=dict)
    """Run objects that are gone and not recorded yet, by uid."""
    tracked: dict[str, Tracked] = field(default_factory=dict)
    """By uid."""

    def note_deleted(self, run: Object) -> None:
        """Remember that a Run object is gone, until its next look."""
        self.deleted[run["metadata"]["uid"]] = run

    def reconcile(self, name: str) -> float | None:
        """Look at the Run of this name; seconds until the next look, None if only a change calls for one.

        Raises RetryableError while the store or the cluster is away.
        """
        for uid, gone in list(self.deleted.items()):
            if gone["metadata"]["name"] == name:
                self._record_deleted(gone)
                self.deleted.pop(uid, None)
                self.tracked.pop(uid, None)
        run = self.mirrors.runs.get(name)
        if run is None or "deletionTimestamp" in run["metadata"]:
            return None
        status = run.get("status") or {}
        if status.get("phase") in FINAL:
            return self._expire(run, status)
        known, asked = status.get("runId"), _try_id(run)
        if known is not None and asked != known:
            self._hold(run, known, asked)
            return None
        try:
            submission = parse_object(run)
        except BadConfiguration as error:
            return self._fail(run, None, error)
        return self._look(run, submission)

    def sweep(self) -> list[str]:
        """Record Runs whose objects were deleted while no controller looked; returns their ids."""
        there = {run["metadata"]["uid"] for run in self.mirrors.runs.all()}
        gone = {uid: place for uid, place in list_open(self.store, self.namespace).items() if uid not in there}
        for uid, place in gone.items():
            self._note_deleted(place, uid)
        return sorted(place.run_id for place in gone.values())

    def _look(self, run: Object, submission: Submission) -> float | None:
        uid = run["metadata"]["uid"]
        place = RunPlace(namespace=self.namespace, run_id=submission.id)
        ended = read_ended(self.store, place, uid)
        if ended is not None:
            return self._show_end(run, place, submission.run.spec, ended)
        created = run["metadata"]["creationTimestamp"]
        note_asked(self.store, place, Asked(uid=uid, name=run["metadata"]["name"], created_at=created))
        if uid not in self.tracked:
            try:
                self.tracked[uid] = self._track(run, submission, place)
            except PermanentError as error:
                return self._fail(run, place, error)
        tracked = self.tracked[uid]
        desired = submission.run.spec.desired
        refusal: TandemError | None = None
        step: Step | None = None
        for _ in range(MOST_STEPS):
            stages = list_run_stages(self.store, place, tracked.spec)
            try:
                step = take_step(
                    tracked.backend, stages, desired=desired, max_attempts=tracked.spec.max_attempts, now=self.now
                )
            except BadConfiguration as error:
                refusal = error
                break
            if step.finish is not None:
                return self._finish(run, tracked, step.finish)
            if not step.has_acted:
                break
        self._show(run, self._view(run, tracked, desired, step, refusal))
        pause = LOOK_SECONDS if tracked.backend.live or refusal else IDLE_SECONDS
        return min(pause, IDLE_SECONDS if step is None else max(step.pause, 0.1))

    def _track(self, run: Object, submission: Submission, place: RunPlace) -> Tracked:
        body, record = self._ensure_record(run, submission, place)
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

        backend = JobBackend(
            api=self.api,
            store=self.store,
            place=place,
            spec=spec,
            record_sha256=sha256_hex(body),
            owner=Owner(name=metadata["name"], uid=metadata["uid"]),
            records=records,
            collector=collector,
            list_jobs=lambda: self._list_jobs(place.run_id),
            read_profiles=self.read_profiles,
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
            one = read_live_job(job, pods.get(uid, ()), self.seen.find_gone(uid))
            if one is not None:
                found.append(one)
        return found

    def _view(
        self, run: Object, tracked: Tracked, desired: Desired, step: Step | None, refusal: TandemError | None
    ) -> View:
        live = tracked.backend.live
        attempt, progress, waiting = self._describe_live(tracked, live)
        committed = step.observed.committed if step is not None else frozenset()
        has_begun = bool(committed or tracked.backend.own_ends)
        running = any(started_at(one.pods) is not None for one in live)
        if desired is Desired.SUSPENDED and not live:
            phase = Phase.SUSPENDED
        elif running or has_begun:
            phase = Phase.RUNNING
        else:
            phase = Phase.PENDING
        message, remedy, stalled = "", "", ""
        if refusal is not None:
            message, remedy, stalled = _say(refusal), _remedy(refusal), "Refused"
        elif waiting is not None:
            message, remedy = waiting.message, waiting.remedy
            stalled = "CannotStart" if waiting.is_stalled else ""
        elif any(one.is_leaving for one in live) and desired is not Desired.ACTIVE:
            message = f"{desired.value.lower()}: the running attempt saves its work"
        self._tell_refusal(run, tracked, message if stalled else "", stalled)
        return View(
            phase=phase,
            run_id=tracked.place.run_id,
            attempt=attempt,
            progress=progress,
            figures=self._read_figures(tracked.place, tracked.spec, tracked.figures),
            folder=self._folder(tracked.place),
            result=self._folder(tracked.place) if committed else None,
            message=message,
            remedy=remedy,
            stalled=stalled,
        )

    def _tell_refusal(self, run: Object, tracked: Tracked, message: str, stalled: str) -> None:
        if message and message != tracked.last_refusal:
            reason = "Refused" if stalled == "Refused" else "Stalled"
            self.notices.tell(run, reason, message, run_id=tracked.place.run_id)
        tracked.last_refusal = message

    def _describe_live(
        self, tracked: Tracked, live: Sequence[LiveJob]
    ) -> tuple[AttemptSection | None, ProgressSection | None, Waiting | None]:
        """The attempt to show: the first that runs, else the first that waits, else the last that ended."""
        order = sorted(live, key=lambda one: (started_at(one.pods) is None, one.stage.kind != "train", one.name))
        if not order:
            return _last_attempt(tracked.backend), None, None
        one = order[0]
        begun = started_at(one.pods)
        started = None if begun is None else write_time(begun)
        attempt = describe_attempt(one.stage.text, one.number, one.name, started)
        if begun is None:
            return attempt, None, why_waiting(one.job, one.pods, self._find_workload(one))
        parts = [last for pod in one.pods if (last := self._read_progress(pod)) is not None]
        found = parts[0] if one.stage.kind == "train" and parts else add_progress(parts)
        if found is None:
            return attempt, None, None
        first = tracked.first_progress.setdefault(one.name, (self.now(), found))
        return attempt, describe_progress(found, first, now=self.now()), None

    def _read_progress(self, pod: Object) -> Progress | None:
        if started_at([pod]) is None:
            return None
        try:
            text = self.api.read_log(
                self.namespace, pod["metadata"]["name"], find_container(pod), tail_lines=TAIL_LINES
            )
        except TandemError:
            return None  # a status without progress is right too
        return last_progress(text.decode("utf-8", "replace").splitlines())

    def _find_workload(self, one: LiveJob) -> Object | None:
        with suppress(NotFound, Forbidden, Busy):
            page = self.api.list(WORKLOAD, self.namespace, selector=f"kueue.x-k8s.io/job-uid={one.uid}")
            return page.items[0] if page.items else None
        return None

    def _read_figures(self, place: RunPlace, spec: RunSpec, known: dict[str, list[Figure]]) -> list[tuple[str, Figure]]:
        for stage in list_run_stages(self.store, place, spec):
            if not stage.name.startswith("score/") or stage.name in known:
                continue
            with suppress(NotThere):
                tree = read_commit(self.store, place, stage.name).tree
                known[stage.name] = list_figures(json.loads(read_file(self.store, tree, "result.json")))
        return [(stage.split("/")[1], figure) for stage, figures in known.items() for figure in figures]

    def _finish(self, run: Object, tracked: Tracked, finish: Finish) -> float | None:
        ended = Ended(
            uid=run["metadata"]["uid"],
            phase=finish.phase.value,
            stage=finish.stage,
            outcome=finish.outcome,
            ended_at=write_time(self.now()),
        )
        stands = note_ended(self.store, tracked.place, ended)
        self.tracked.pop(run["metadata"]["uid"], None)
        reason = stands.phase
        message = _describe_end(stands) or f"{tracked.place.run_id}: {stands.phase.lower()}"
        self.notices.tell(run, reason, message, run_id=tracked.place.run_id)
        return self._show_end(run, tracked.place, tracked.spec, stands, backend=tracked.backend)

    def _show_end(
        self, run: Object, place: RunPlace, spec: RunSpec, ended: Ended, *, backend: JobBackend | None = None
    ) -> float | None:
        figures = self._read_figures(place, spec, {})
        has_results = bool(figures) or ended.phase == "Succeeded"
        view = View(
            phase=Phase(ended.phase),
            run_id=place.run_id,
            attempt=None if backend is None else _last_attempt(backend),
            figures=figures,
            folder=self._folder(place),
            result=self._folder(place) if has_results else None,
            message=_describe_end(ended),
            remedy="" if ended.outcome is None else ended.outcome.remedy,
        )
        status = self._show(run, view, at=read_time(ended.ended_at))
        return self._expire(run, status)

    def _fail(self, run: Object, place: RunPlace | None, error: TandemError) -> float | None:
        """End a Run whose object cannot be changed into one that works."""
        self.notices.tell(run, "Refused", _say(error))
        if place is None:
            id_ = _try_id(run)
            view = View(phase=Phase.FAILED, run_id=id_, message=_say(error), remedy=_remedy(error), stalled="Refused")
            return self._expire(run, self._show(run, view))
        ended = Ended(
            uid=run["metadata"]["uid"],
            phase="Failed",
            outcome=describe_failure(error),
            ended_at=write_time(self.now()),
        )
        stands = note_ended(self.store, place, ended)
        return self._show_end(run, place, parse_object(run).run.spec, stands)

    def _hold(self, run: Object, known: str, asked: str | None) -> None:
        """Do nothing for a Run whose spec was changed under it, which the definition of Runs should have refused."""
        fault = Fault(
            where="spec",
            what=f"has changed under this Run: it makes {asked or 'no Run'}, and the Run is {known}",
            remedy="Put it back, or delete this object and give the new spec a name of its own. Update the chart "
            "tandem-crds: its definition of Runs refuses such changes.",
        )
        message = _say(BadConfiguration(fault))
        if run["status"].get("message") != message:
            self.notices.tell(run, "Refused", message, run_id=known)
        self._apply_status(run, hold_status(run, message, fault.remedy, now=self.now()))

    def _show(self, run: Object, view: View, *, at: float | None = None) -> Object:
        status = build_status(run, view, now=self.now() if at is None else at)
        self._apply_status(run, status)
        return status

    def _apply_status(self, run: Object, status: Object) -> None:
        if status != run.get("status"):
            with suppress(NotFound):
                self.api.apply_status(RUN, self.namespace, run["metadata"]["name"], status, manager=MANAGER)

    def _expire(self, run: Object, status: Object) -> float | None:
        """Delete a finished Run object whose time is over."""
        keep = run["spec"].get("ttlSecondsAfterFinished")
        finished = finished_at(status)
        if keep is None or finished is None:
            return None
        left = read_time(finished) + float(keep) - self.now()
        if left > 0:
            return left
        metadata = run["metadata"]
        self.api.delete(RUN, self.namespace, metadata["name"], uid=metadata["uid"])
        return None

    def _record_deleted(self, run: Object) -> None:
        try:
            known = (run.get("status") or {}).get("runId") or run_id(run["metadata"]["name"], run["spec"])
            place = RunPlace(namespace=self.namespace, run_id=known)
            self.store.get(place.asked(run["metadata"]["uid"]))
        except (NotThere, BadData, ValueError, KeyError):
            return
        self._note_deleted(place, run["metadata"]["uid"])

    def _note_deleted(self, place: RunPlace, uid: str) -> None:
        ended = Ended(uid=uid, phase="Cancelled", outcome=_DELETED, ended_at=write_time(self.now()))
        if note_ended(self.store, place, ended) == ended:
            self.notices.log.info("the Run object is gone: recorded as cancelled", run_id=place.run_id, uid=uid)

    def _folder(self, place: RunPlace) -> str:
        return f"{self.store.url.rstrip('/')}/{place.prefix}"


def _last_attempt(backend: JobBackend) -> AttemptSection | None:
    if not backend.own_ends:
        return None
    last = max(backend.own_ends, key=lambda end: end.ended_at)
    return describe_attempt(last.stage, last.number, last.job, last.started_at)


def _describe_end(ended: Ended) -> str:
    if ended.outcome is None:
        return ""
    stage = f"{ended.stage}: " if ended.stage else ""
    code = f" (exit code {ended.outcome.exit_code})" if ended.outcome.exit_code else ""
    return f"{stage}{ended.outcome.message}{code}"


def _say(error: TandemError) -> str:
    return "; ".join(f"{fault.where}: {fault.what}" for fault in error.faults)


def _remedy(error: TandemError) -> str:
    return " ".join(dict.fromkeys(fault.remedy for fault in error.faults))


def _try_id(run: Object) -> str | None:
    try:
        return run_id(run["metadata"]["name"], run["spec"])
    except (ValueError, KeyError, TypeError):
        return None
