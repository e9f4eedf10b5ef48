"""What the status of a Run object says, from one look at its Run or from its end; told as an event where it is news."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tandem.control.api import RUN, WORKLOAD, Api, Busy, Forbidden, NotFound, Object
from tandem.control.jobs import JobBackend
from tandem.control.live import LiveJob
from tandem.control.loop import Step
from tandem.control.names import MANAGER
from tandem.control.notices import Notices
from tandem.control.pods import Waiting, find_container, started_at, why_waiting
from tandem.control.settings import list_run_stages
from tandem.control.status import View, build_status, describe_attempt, describe_progress, hold_status
from tandem.control.times import read_time, write_time
from tandem.control.tracking import Tracked
from tandem.errors import BadConfiguration, Fault, TandemError
from tandem.progress import Progress, add_progress, last_progress
from tandem.record.asked import Ended
from tandem.record.commit import read_commit, read_file
from tandem.report.figures import Figure, list_figures
from tandem.spec import Desired, RunSpec
from tandem.spec.status import AttemptSection, Phase, ProgressSection
from tandem.store import NotThere, Store
from tandem.store.layout import RunPlace

TAIL_LINES = 50
"""Lines of a log among which the newest progress is looked for."""


@dataclass(frozen=True, kw_only=True)
class Showing:
    """Writes the statuses of one namespace."""

    api: Api
    store: Store
    namespace: str
    notices: Notices
    now: Callable[[], float]

    def show_look(
        self, run: Object, tracked: Tracked, desired: Desired, step: Step | None, refusal: TandemError | None
    ) -> None:
        """Show how a Run stands that has not ended: what runs, what it waits for, or why it is refused."""
        self._write(run, self._view(run, tracked, desired, step, refusal))

    def show_end(
        self, run: Object, place: RunPlace, spec: RunSpec, ended: Ended, *, backend: JobBackend | None = None
    ) -> Object:
        """Show how a Run has ended; returns the status."""
        figures = self._read_figures(place, spec, {})
        has_results = bool(figures) or ended.phase == "Succeeded"
        view = View(
            phase=Phase(ended.phase),
            run_id=place.run_id,
            attempt=None if backend is None else _last_attempt(backend),
            figures=figures,
            folder=self._folder(place),
            result=self._folder(place) if has_results else None,
            message=describe_end(ended),
            remedy="" if ended.outcome is None else ended.outcome.remedy,
        )
        return self._write(run, view, at=read_time(ended.ended_at))

    def show_refused(self, run: Object, id_: str | None, error: TandemError) -> Object:
        """Show that an object is none that a Run can be made of; returns the status."""
        view = View(phase=Phase.FAILED, run_id=id_, message=say(error), remedy=_remedy_of(error), stalled="Refused")
        return self._write(run, view)

    def show_changed(self, run: Object, known: str, asked: str | None) -> None:
        """Show that a spec was changed under its Run, which the definition of Runs should have refused."""
        fault = Fault(
            where="spec",
            what=f"has changed under this Run: it makes {asked or 'no Run'}, and the Run is {known}",
            remedy="Put it back, or delete this object and give the new spec a name of its own. Update the chart "
            "tandem-crds: its definition of Runs refuses such changes.",
        )
        message = say(BadConfiguration(fault))
        if run["status"].get("message") != message:
            self.notices.tell(run, "Refused", message, run_id=known)
        self._apply(run, hold_status(run, message, fault.remedy, now=self.now()))

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
            message, remedy, stalled = say(refusal), _remedy_of(refusal), "Refused"
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

    def _write(self, run: Object, view: View, *, at: float | None = None) -> Object:
        status = build_status(run, view, now=self.now() if at is None else at)
        self._apply(run, status)
        return status

    def _apply(self, run: Object, status: Object) -> None:
        if status != run.get("status"):
            with suppress(NotFound):
                self.api.apply_status(RUN, self.namespace, run["metadata"]["name"], status, manager=MANAGER)

    def _folder(self, place: RunPlace) -> str:
        return f"{self.store.url.rstrip('/')}/{place.prefix}"


def _last_attempt(backend: JobBackend) -> AttemptSection | None:
    if not backend.own_ends:
        return None
    last = max(backend.own_ends, key=lambda end: end.ended_at)
    return describe_attempt(last.stage, last.number, last.job, last.started_at)


def describe_end(ended: Ended) -> str:
    """One line; empty where all went well."""
    if ended.outcome is None:
        return ""
    stage = f"{ended.stage}: " if ended.stage else ""
    code = f" (exit code {ended.outcome.exit_code})" if ended.outcome.exit_code else ""
    return f"{stage}{ended.outcome.message}{code}"


def say(error: TandemError) -> str:
    """Every fault of an error in one line, without the remedies."""
    return "; ".join(f"{fault.where}: {fault.what}" for fault in error.faults)


def _remedy_of(error: TandemError) -> str:
    return " ".join(dict.fromkeys(fault.remedy for fault in error.faults))
