"""Jobs between their start and their record: noted, watched while they go, recorded when they have ended, deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tandem.control.api import JOB_KINDS, Api, NotFound, Object
from tandem.control.collect import Collector
from tandem.control.live import LiveJob, read_live_job, remember_job
from tandem.control.pods import is_finished, is_over
from tandem.control.seen import owner_uid
from tandem.control.stored import StageRecords
from tandem.record.attempt import AttemptStart, write_attempt_start
from tandem.store import Store
from tandem.store.layout import RunPlace


@dataclass(frozen=True, kw_only=True)
class Settler:
    """Keeps the records of one Run's jobs; `records` are what the store had of each stage, and are kept up to date."""

    api: Api
    store: Store
    place: RunPlace
    owner_uid: str
    """The Run object's that this is about: of jobs that do not say whose they are."""
    collector: Collector
    notice: Callable[[str, str, int | None, str], None]
    """Told what happened: a CamelCase reason, the stage, the attempt's number, one line."""

    def settle(self, jobs: list[LiveJob], records: dict[str, StageRecords]) -> list[LiveJob]:
        """Note jobs, record those that have ended, delete them; returns those that have not."""
        live = []
        for one in jobs:
            kept = [records[stage] for stage in one.stage.stages if stage in records]
            if kept and all(is_recorded(one, record) for record in kept):
                self._let_go(one)
                continue
            self._note(one, records)
            for stage in one.stage.stages:
                if stage in records:
                    self.collector.keep_seen(records[stage].starts[one.number], one.pods_of(stage))
            if is_finished(one.job) and all(is_over(pod) for pod in one.pods):
                self._record(one.job, one, one.stage.stages, one.number, records)
                self._let_go(one)
            else:
                live.append(one)
        self._settle_gone(live, records)
        return live

    def follow(self, pods: Sequence[Object]) -> None:
        """Read the logs of pods that are about to go, to their end."""
        for pod in pods:
            self.collector.tails.follow(self.place.namespace, pod)

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
                    self._record(None, remember_job(start, pods), (stage,), start.number, records)
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
                records[stage].starts[one.number] = self.write_start(one.job, stage, one.number)

    def write_start(self, job: Object, stage: str, number: int) -> AttemptStart:
        """Note that the job of an attempt is there."""
        metadata = job["metadata"]
        start = AttemptStart(
            stage=stage,
            number=number,
            job=metadata["name"],
            job_uid=metadata["uid"],
            run_uid=owner_uid(job) or self.owner_uid,
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

    def _let_go(self, one: LiveJob) -> None:
        self.collector.seen.forget(one.uid)
        if not one.is_leaving:
            kind = JOB_KINDS[one.job["kind"]]
            self.api.delete(kind, self.place.namespace, one.name, uid=one.uid, propagation="Background")


def is_recorded(one: LiveJob, record: StageRecords) -> bool:
    """Whether the store knows how this job ended."""
    end = record.ends.get(one.number)
    return end is not None and end.job_uid == one.uid
