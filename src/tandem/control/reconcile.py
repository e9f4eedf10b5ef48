"""One look at one Run object: what it asks for is brought one step further, and its status says how it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.control.api import RUN, Api, Object
from tandem.control.loop import Step, take_step
from tandem.control.notices import Notices
from tandem.control.plan import Finish
from tandem.control.settings import list_run_stages
from tandem.control.showing import Showing, describe_end, say
from tandem.control.status import FINAL, finished_at
from tandem.control.times import read_time, write_time
from tandem.control.tracking import Tracked, Tracker
from tandem.errors import BadConfiguration, PermanentError, TandemError
from tandem.outcome import Outcome, describe_failure
from tandem.record.asked import Asked, Ended, list_open, note_asked, note_ended, read_asked, read_ended
from tandem.spec import Submission, parse_object, run_id
from tandem.store import Corrupt, Store
from tandem.store.layout import RunPlace

LOOK_SECONDS = 15.0
"""How often a Run with live attempts is looked at even if nothing changes: for its progress."""

LEAVING_SECONDS = 2.0
"""The same while the pods of a deleted Run object end: what they say last is read as they go."""

IDLE_SECONDS = 300.0
"""The same for one that waits for people."""

MOST_STEPS = 50
"""Steps of one look; the next look goes on."""

_DELETED = Outcome(
    exit_code=0,
    code="deleted",
    message="the Run object was deleted before its end",
    remedy="Apply it again: what is committed is adopted, and training goes on from its newest checkpoint.",
)


@dataclass(kw_only=True)
class Reconciler:
    """Looks at Runs, one at a time each; several may be looked at at once."""

    api: Api
    store: Store
    namespace: str
    tracker: Tracker
    showing: Showing
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
        leaving = [uid for uid, gone in list(self.deleted.items()) if gone["metadata"]["name"] == name]
        are_gone = [self._wind_down(uid) for uid in leaving]
        pause = self._look_at(name)
        return pause if all(are_gone) else min(pause or LEAVING_SECONDS, LEAVING_SECONDS)

    def _look_at(self, name: str) -> float | None:
        run = self.tracker.mirrors.runs.get(name)
        if run is None or "deletionTimestamp" in run["metadata"]:
            return None
        status = run.get("status") or {}
        if status.get("phase") in FINAL:
            return self._expire(run, status)
        known, asked = status.get("runId"), _try_id(run)
        if known is not None and asked != known:
            self.showing.show_changed(run, known, asked)
            return None
        try:
            submission = parse_object(run)
        except BadConfiguration as error:
            return self._fail(run, None, error)
        return self._look(run, submission)

    def sweep(self) -> list[str]:
        """Find Runs whose objects were deleted while no controller looked; returns their names, to be looked at."""
        there = {run["metadata"]["uid"] for run in self.tracker.mirrors.runs.all()}
        names = set()
        for uid, place in list_open(self.store, self.namespace).items():
            if uid in there:
                continue
            try:
                asked = read_asked(self.store, place, uid)
            except Corrupt as error:
                self.notices.log.warning("a deleted Run cannot be recorded", run_id=place.run_id, error=str(error))
                continue
            metadata = {"name": asked.name, "uid": uid, "creationTimestamp": asked.created_at}
            self.deleted.setdefault(uid, {"metadata": metadata, "status": {"runId": place.run_id}})
            names.add(asked.name)
        return sorted(names)

    def _look(self, run: Object, submission: Submission) -> float | None:
        uid = run["metadata"]["uid"]
        place = RunPlace(namespace=self.namespace, run_id=submission.id)
        ended = read_ended(self.store, place, uid)
        if ended is not None:
            return self._expire(run, self.showing.show_end(run, place, submission.run.spec, ended))
        created = run["metadata"]["creationTimestamp"]
        note_asked(self.store, place, Asked(uid=uid, name=run["metadata"]["name"], created_at=created))
        if uid not in self.tracked:
            try:
                self.tracked[uid] = self.tracker.track(run, submission, place)
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
        self.showing.show_look(run, tracked, desired, step, refusal)
        pause = LOOK_SECONDS if tracked.backend.live or refusal else IDLE_SECONDS
        return min(pause, IDLE_SECONDS if step is None else max(step.pause, 0.1))

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
        message = describe_end(stands) or f"{tracked.place.run_id}: {stands.phase.lower()}"
        self.notices.tell(run, reason, message, run_id=tracked.place.run_id)
        status = self.showing.show_end(run, tracked.place, tracked.spec, stands, backend=tracked.backend)
        return self._expire(run, status)

    def _fail(self, run: Object, place: RunPlace | None, error: TandemError) -> float | None:
        """End a Run whose object cannot be changed into one that works."""
        self.notices.tell(run, "Refused", say(error))
        if place is None:
            return self._expire(run, self.showing.show_refused(run, _try_id(run), error))
        ended = Ended(
            uid=run["metadata"]["uid"],
            phase="Failed",
            outcome=describe_failure(error),
            ended_at=write_time(self.now()),
        )
        stands = note_ended(self.store, place, ended)
        return self._expire(run, self.showing.show_end(run, place, parse_object(run).run.spec, stands))

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

    def _wind_down(self, uid: str) -> bool:
        """Stop what a deleted Run object had asked for, and record it when all of that has ended; whether it has."""
        run = self.deleted[uid]
        try:
            known = (run.get("status") or {}).get("runId") or run_id(run["metadata"]["name"], run["spec"])
            place = RunPlace(namespace=self.namespace, run_id=known)
            read_asked(self.store, place, uid)
            has_ended = read_ended(self.store, place, uid) is not None
        except (PermanentError, ValueError, KeyError):
            has_ended = True  # nobody had taken it up
        if has_ended:
            self._forget(uid)
            return True
        if not self._is_wound_down(uid, run, place):
            return False
        ended = Ended(uid=uid, phase="Cancelled", outcome=_DELETED, ended_at=write_time(self.now()))
        if note_ended(self.store, place, ended) == ended:
            self.notices.log.info("the Run object is gone: recorded as cancelled", run_id=place.run_id, uid=uid)
        self._forget(uid)
        return True

    def _is_wound_down(self, uid: str, run: Object, place: RunPlace) -> bool:
        try:
            tracked = self.tracked.get(uid) or self.tracker.track_gone(run, place)
        except PermanentError as error:
            self.notices.log.warning("what a deleted Run did cannot be recorded", run_id=place.run_id, error=str(error))
            return True
        if tracked is None:
            return True
        self.tracked[uid] = tracked
        return tracked.backend.wind_down(list_run_stages(self.store, place, tracked.spec))

    def _forget(self, uid: str) -> None:
        self.deleted.pop(uid, None)
        self.tracked.pop(uid, None)


def _try_id(run: Object) -> str | None:
    try:
        return run_id(run["metadata"]["name"], run["spec"])
    except (ValueError, KeyError, TypeError):
        return None
