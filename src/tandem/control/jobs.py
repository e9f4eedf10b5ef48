"""Attempts as Jobs and PyTorchJobs: what is live comes from the cluster, what has ended from the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem.control.api import JOB_KINDS, Api
from tandem.control.live import LiveJob
from tandem.control.making import JobMaker
from tandem.control.names import JobStage, join_shards
from tandem.control.plan import Attempt, Commit, Observed, Start, State, Stop
from tandem.control.pods import is_finished, started_at
from tandem.control.settling import Settler, is_recorded
from tandem.control.stages import Kind, Stage
from tandem.control.stored import RunRecords, StageRecords
from tandem.control.times import read_time, write_time
from tandem.record.attempt import AttemptEnd
from tandem.record.commit import write_commit
from tandem.store import Corrupt, Store
from tandem.store.layout import RunPlace

SLOTS = dict.fromkeys(Kind, 1_000_000)
"""Attempts of a Run that may exist at once: the cluster's queue decides how many of them run."""


@dataclass(kw_only=True)
class JobBackend:
    """The attempts of one Run object."""

    api: Api
    store: Store
    place: RunPlace
    owner_uid: str
    """The Run object's."""
    maker: JobMaker
    records: RunRecords
    settler: Settler
    list_jobs: Callable[[], Sequence[LiveJob]]
    """The Run's jobs as the cluster was last seen."""
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
        return [end for end in ends if end.run_uid == self.owner_uid]

    def observe(self, stages: tuple[Stage, ...]) -> Observed:
        """What is committed, complete, live and ended; ended attempts are recorded and their jobs deleted first."""
        names = [stage.name for stage in stages]
        records = self.records.look(names)
        live = self.settler.settle(list(self.list_jobs()), records)
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
                self.settler.follow(one.pods)
                kind = JOB_KINDS[one.job["kind"]]
                self.api.delete(kind, self.place.namespace, one.name, uid=one.uid, propagation="Foreground")
                one.job["metadata"].setdefault("deletionTimestamp", write_time(self.now()))
                self.notice("AttemptStopped", one.stage.text, one.number, f"{one.name}: {action.reason}")

    def wind_down(self, stages: tuple[Stage, ...]) -> bool:
        """Stop and record what this object had asked for, now that it is gone; whether all of it is recorded.

        The cluster collects what a deleted object owned as well, but waits for nobody who reads logs.
        """
        self.observe(stages)
        own = [one for one in self.live if self._is_own(one)]
        for one in own:
            self.stop(Stop(stage=one.stage.stages[0], number=one.number, reason="the Run object was deleted"))
        return not own

    def commit(self, action: Commit) -> None:
        """Let an execution count if it is whole; if not, it is never looked at again."""
        try:
            write_commit(self.store, self.place, action.stage, action.execution, write_time(self.now()))
        except Corrupt as error:
            self.broken.add(action.execution)
            self.notice("NotCounted", action.stage, self._writer_of(action), str(error))
        else:
            said = f"{action.stage}: execution {action.execution} counts"
            self.notice("Committed", action.stage, self._writer_of(action), said)

    def _is_own(self, one: LiveJob) -> bool:
        starts = [self.found[stage].starts.get(one.number) for stage in one.stage.stages if stage in self.found]
        return any(start is not None and start.run_uid == self.owner_uid for start in starts)

    def _writer_of(self, action: Commit) -> int | None:
        """The attempt that wrote an execution, as far as its pods are known: they give it its name."""
        pods = [(pod.uid, number) for number, end in self.found[action.stage].ends.items() for pod in end.pods]
        pods += [(pod["metadata"]["uid"], one.number) for one in self.live for pod in one.pods]
        return dict(pods).get(action.execution)

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
            if stage in records and not is_recorded(one, records[stage])
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
        made = self.maker.make(stage, number)
        for one in stage.stages:
            self.settler.write_start(made, one, number)
        name = made["metadata"]["name"]
        self.notice("AttemptStarted", stage.text, number, f"{name}: attempt {number} of {stage.text}")


def _ended(end: AttemptEnd) -> Attempt:
    return Attempt(
        stage=end.stage,
        number=end.number,
        state=State.ENDED,
        started_at=read_time(end.started_at),
        ended_at=read_time(end.ended_at),
        outcome=end.outcome,
    )


def _group(stage: str) -> str:
    return stage.rpartition("/")[0] if stage.startswith("generate/") else stage
