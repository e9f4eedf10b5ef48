"""What is kept of an attempt before anything of it is deleted: its pods' logs, then how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem.control.api import Api, Busy, Forbidden, NotFound, Object, Refused
from tandem.control.pods import choose_outcome, describe_end, find_container, has_begun
from tandem.control.seen import LastSeen, LogTails
from tandem.control.stored import RunRecords
from tandem.control.times import read_time, write_time
from tandem.errors import Fault
from tandem.outcome import Outcome, choose_strongest
from tandem.record.attempt import (
    AttemptEnd,
    AttemptStart,
    PodEnd,
    read_pods,
    write_attempt_end,
    write_attempt_log,
    write_pod,
)
from tandem.store import Store
from tandem.store.layout import RunPlace

MOST_LINES = 200_000
"""Lines of a pod's log that are kept, the last ones."""

MOST_TRIES = 5
"""Looks at a log whose node does not answer; then the attempt is recorded without it."""


@dataclass(kw_only=True)
class Collector:
    """Records ended attempts of one Run."""

    api: Api
    store: Store
    place: RunPlace
    records: RunRecords
    seen: LastSeen
    tails: LogTails
    now: Callable[[], float]
    _kept: set[tuple[str, bool]] = field(default_factory=set)
    """Pods of which the store knows that they run, or that they have ended."""
    _tries: dict[str, int] = field(default_factory=dict)
    """Failed looks at a pod's log, by its uid."""

    def keep_seen(self, start: AttemptStart, pods: Sequence[Object]) -> None:
        """Keep which images pods run and how they ended: pods may be deleted, and this controller killed."""
        for pod in pods:
            end = describe_end(pod)
            moment = (end.uid, end.exit_code is not None)
            if end.image_id is not None and moment not in self._kept:
                write_pod(self.store, self.place, start, end)
                self._kept.add(moment)

    def record(
        self, job: Object | None, start: AttemptStart, pods: Sequence[Object], unclaimed: Sequence[str]
    ) -> AttemptEnd:
        """Write logs and then attempt.json, and return the record that stands.

        Of `pods` those that are there come first, those that are gone after them; what nobody remembers is read.
        `unclaimed` are executions that no attempt has recorded: if nobody saw how this one's pods ended, they say.
        Raises Busy while a pod's log cannot be read but may be later.
        """
        named: dict[str, list[Object]] = {}
        for pod in pods:
            named.setdefault(str(pod["metadata"]["name"]), []).append(pod)
        # Operators make a pod again under its old name: then each log gets the pod's uid too, and what can be read by
        # the name is that of the pod which is there.
        ends = [
            self._keep_log(
                start, pod, name if len(same) == 1 else f"{name}-{pod['metadata']['uid']}", is_first=pod is same[0]
            )
            for name, same in sorted(named.items())
            for pod in same
        ]
        there = {end.uid for end in ends}
        ends += [pod for uid, pod in read_pods(self.store, self.place, start).items() if uid not in there]
        outcome = choose_outcome(job, ends)
        if outcome.code == "lost":
            outcome = self._ask_executions(start.stage, unclaimed) or outcome
        ended = max((read_time(end.ended_at) for end in ends if end.ended_at), default=self.now())
        begun = min((read_time(end.started_at) for end in ends if end.started_at), default=ended)
        written = write_attempt_end(
            self.store,
            self.place,
            AttemptEnd(
                stage=start.stage,
                number=start.number,
                job=start.job,
                job_uid=start.job_uid,
                run_uid=start.run_uid,
                pods=tuple(ends),
                outcome=outcome,
                started_at=write_time(begun),
                ended_at=write_time(ended),
            ),
        )
        for end in ends:
            self.tails.forget(end.uid)
        return written

    def _keep_log(self, start: AttemptStart, pod: Object, name: str, *, is_first: bool) -> PodEnd:
        end = describe_end(pod)
        log = self._find_tail(end)
        if not log and is_first and has_begun(pod):
            log = self._read_log(pod, end)
        if log is None:
            return end
        key = write_attempt_log(self.store, self.place, start, name, log)
        return end.model_copy(update={"log": key})

    def _find_tail(self, end: PodEnd) -> bytes | None:
        tail = self.tails.find(end.uid)
        if tail is None:
            return None
        if not tail.is_whole and self._may_try_again(end):
            raise Busy(Fault(where=end.name, what="its log is still being read", remedy="It is looked at again."))
        return bytes(tail.text) or None

    def _read_log(self, pod: Object, end: PodEnd) -> bytes | None:
        try:
            return self.api.read_log(self.place.namespace, end.name, find_container(pod), tail_lines=MOST_LINES)
        except (NotFound, Refused, Forbidden):
            return None
        except Busy:
            if self._may_try_again(end):
                raise
            return None

    def _may_try_again(self, end: PodEnd) -> bool:
        self._tries[end.uid] = self._tries.get(end.uid, 0) + 1
        return self._tries[end.uid] < MOST_TRIES

    def _ask_executions(self, stage: str, unclaimed: Sequence[str]) -> Outcome | None:
        said = [self.records.read_exit(stage, execution) for execution in unclaimed]
        known = [outcome for outcome in said if outcome is not None]
        return choose_strongest(known) if known else None
