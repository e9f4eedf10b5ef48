"""The controller's threads: watches fill a queue, workers empty it, a clock asks the store and sweeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tandem.control.api import NotFound, Object
from tandem.control.health import Health, Metrics
from tandem.control.notices import Log
from tandem.control.queue import WorkQueue
from tandem.control.reconcile import Reconciler
from tandem.control.seen import run_id_of
from tandem.control.tracking import Mirrors
from tandem.control.watch import Mirror
from tandem.errors import RetryableError, TandemError
from tandem.spec import run_id

WORKERS = 4
TICK_SECONDS = 1.0
STORE_SECONDS = 15.0
"""How often the store is asked whether it answers."""
SLOW_SECONDS = 10.0
"""Without an answer of the store for so long the controller is not ready; it goes on asking."""
SWEEP_SECONDS = 6 * 3600.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


@dataclass(kw_only=True)
class Controller:
    """Everything between the mirrors and the reconciler; `tick` and `work_once` do one thing each, for tests too."""

    reconciler: Reconciler
    health: Health
    metrics: Metrics
    log: Log
    now: Callable[[], float]
    random: Callable[[], float]
    ask_store: Callable[[], None]
    """Raises what the store says when it is away or cannot be used."""
    queue: WorkQueue = field(default_factory=WorkQueue)
    failures: dict[str, int] = field(default_factory=dict)
    """Looks in a row that failed, by Run."""
    runs_by_id: dict[str, str] = field(default_factory=dict)
    """Which Run object a job belongs to."""
    stopping: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    _swept_at: float | None = None
    _asked_at: float | None = None
    """Since when the store has been asked and has not answered."""

    def note_run(self, run: Object, is_gone: bool) -> None:
        """A Run object changed."""
        name = run["metadata"]["name"]
        with suppress(KeyError, TypeError, ValueError):  # the reconciler says what is wrong with it
            self.runs_by_id[run_id(name, run["spec"])] = name
        if is_gone:
            self.reconciler.note_deleted(run)
        self._ask_for(name)

    def note_child(self, child: Object, is_gone: bool) -> None:  # noqa: ARG002 - what a mirror tells
        """A job or pod of a Run changed."""
        name = self.runs_by_id.get(run_id_of(child) or "")
        if name is not None:
            self._ask_for(name)

    def note_pod(self, pod: Object, is_gone: bool) -> None:
        """A pod changed; what it says is kept."""
        self.reconciler.tracker.note_pod(pod, is_gone)
        self.note_child(pod, is_gone)

    def refresh(self, mirror: Mirror) -> float:
        """One list or watch of a mirror; seconds to wait before the next."""
        kind = mirror.kind.kind
        try:
            mirror.refresh()
        except NotFound as error:
            # A cluster without the training operator can still evaluate: starting a training says what is missing.
            mirror.is_synced = True
            self.health.say(f"watch of {kind}", None)
            self.log.warning(f"the cluster knows no {kind}", error=str(error))
            return LONGEST_PAUSE
        except TandemError as error:
            self.metrics.watch_failures.labels(kind).inc()
            self.health.say(f"watch of {kind}", str(error))
            pause = mirror.pause()
            self.log.warning(f"cannot watch {kind}", error=str(error), again_in_seconds=round(pause, 1))
            return pause
        self.health.say(f"watch of {kind}", None)
        return 0.0

    def work_once(self) -> bool:
        """Look at one Run that is due; whether there was one."""
        if not all(mirror.is_synced for mirror in self.mirrors.all):
            return False
        name = self.queue.take(self.now())
        if name is None:
            return False
        began = self.now()
        try:
            pause = self.reconciler.reconcile(name)
            outcome = "done"
            self.failures.pop(name, None)
        except RetryableError as error:
            pause, outcome = self._back_off(name), "retried"
            self.log.warning(
                "will be looked at again", run=name, error=str(error), code=error.code, again_in_seconds=round(pause, 1)
            )
        except Exception as error:  # one Run must not end the others
            pause, outcome = self._back_off(name), "failed"
            self.log.warning("a look failed", run=name, error=repr(error), exc_info=True)
        finally:
            self.queue.finish(name)
        if pause is not None:
            self.queue.add(name, self.now() + pause)
        self.metrics.looks.labels(outcome).inc()
        self.metrics.look_seconds.observe(max(0.0, self.now() - began))
        self.metrics.last_look.set(self.now())
        return True

    def tick(self) -> None:
        """What is due by the clock: figures, and once all is listed the sweep."""
        self.health.beat("clock")
        if self._asked_at is not None and self.now() - self._asked_at > SLOW_SECONDS:
            self.metrics.store_up.set(0)
            self.health.say("store", f"has not answered for {self.now() - self._asked_at:.0f} s")
        phases = [(run.get("status") or {}).get("phase", "Pending") for run in self.mirrors.runs.all()]
        for phase in ("Pending", "Running", "Suspended", "Succeeded", "Failed", "Cancelled"):
            self.metrics.runs.labels(phase).set(phases.count(phase))
        self.metrics.waiting.set(len(self.queue))
        is_due = self._swept_at is None or self.now() - self._swept_at >= SWEEP_SECONDS
        if is_due and all(mirror.is_synced for mirror in self.mirrors.all):
            try:
                found = self.reconciler.sweep()
            except TandemError as error:
                self.log.warning("the sweep failed", error=str(error))
                self._swept_at = self.now() - SWEEP_SECONDS + LONGEST_PAUSE
                return
            self._swept_at = self.now()
            self.log.info("swept", gone=found)
            for name in found:
                self._ask_for(name)

    def check_store(self) -> None:
        """Ask the store, and say how it is."""
        self._asked_at = self.now()
        try:
            self.ask_store()
        except TandemError as error:
            self.metrics.store_up.set(0)
            self.health.say("store", str(error))
            self.log.warning("the store does not answer", error=str(error))
        else:
            self.metrics.store_up.set(1)
            self.health.say("store", None)
        self._asked_at = None

    def run(self) -> None:
        """Work until `stop`; looks that have begun are ended."""
        threads = [
            *(self._thread(f"watch {mirror.kind.kind}", self._watch, mirror) for mirror in self.mirrors.all),
            *(self._thread(f"worker {number}", self._work) for number in range(WORKERS)),
            self._thread("store", self._ask_store),
        ]
        workers = [thread for thread in threads if thread.name.startswith("worker")]
        for thread in threads:
            thread.start()
        while not self.stopping.wait(TICK_SECONDS):
            self.tick()
            for thread in threads:
                if not thread.is_alive():
                    self.health.beats[thread.name] = float("-inf")
        self.wake.set()
        for worker in workers:
            worker.join()

    def stop(self) -> None:
        """End soon."""
        self.stopping.set()
        self.wake.set()

    @property
    def mirrors(self) -> Mirrors:
        """What is watched."""
        return self.reconciler.tracker.mirrors

    def _thread(self, name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
        return threading.Thread(target=target, args=arguments, name=name, daemon=True)

    def _watch(self, mirror: Mirror) -> None:
        while not self.stopping.is_set():
            pause = self.refresh(mirror)
            if pause:
                self.stopping.wait(pause)

    def _work(self) -> None:
        while not self.stopping.is_set():
            if self.work_once():
                continue
            due = self.queue.next_due()
            left = TICK_SECONDS if due is None else min(TICK_SECONDS, max(0.0, due - self.now()))
            if self.wake.wait(left or TICK_SECONDS / 10):
                self.wake.clear()

    def _ask_store(self) -> None:
        while not self.stopping.is_set():
            self.check_store()
            self.stopping.wait(STORE_SECONDS)

    def _ask_for(self, name: str) -> None:
        self.queue.add(name, self.now())
        self.wake.set()

    def _back_off(self, name: str) -> float:
        self.failures[name] = self.failures.get(name, 0) + 1
        bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures[name] - 1, 10))
        return bound * (0.5 + 0.5 * self.random())
