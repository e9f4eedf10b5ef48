"""A controller put together from its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tandem.control.api import JOB, POD, PYTORCHJOB, RUN, Api, Kind, Object
from tandem.control.controller import Controller
from tandem.control.health import Health, Metrics
from tandem.control.names import OURS
from tandem.control.notices import Log, Notices
from tandem.control.profiles import read_profiles
from tandem.control.reconcile import Reconciler
from tandem.control.seen import LastSeen, LogTails, run_id_of, spawn_thread
from tandem.control.showing import Showing
from tandem.control.tracking import Mirrors, Tracker
from tandem.control.watch import Mirror
from tandem.record.run import Pin
from tandem.spec import RunSpec
from tandem.store import Store
from tandem.store.opening import probe


@dataclass(kw_only=True)
class Switchboard:
    """Passes on what mirrors tell: they are made before the controller that listens."""

    controller: Controller | None = None

    def listener(self, kind: Kind) -> Callable[[Object, bool], None]:
        """What a mirror of this kind is given as `notify`."""

        def tell(one: Object, is_gone: bool) -> None:
            assert self.controller is not None
            match kind.kind:
                case "Run":
                    self.controller.note_run(one, is_gone)
                case "Pod":
                    self.controller.note_pod(one, is_gone)
                case _:
                    self.controller.note_child(one, is_gone)

        return tell


def assemble(
    api: Api,
    store: Store,
    *,
    namespace: str,
    profiles: Path,
    pin: Callable[[RunSpec], dict[str, Pin]],
    log: Log,
    now: Callable[[], float],
    random: Callable[[], float],
    spawn: Callable[[Callable[[], None]], Callable[[float], None]] = spawn_thread,
) -> Controller:
    """A controller of one namespace, not started."""
    board = Switchboard()

    def mirror(kind: Kind, selector: str) -> Mirror:
        return Mirror(
            api=api,
            kind=kind,
            namespace=namespace,
            selector=selector,
            now=now,
            random=random,
            notify=board.listener(kind),
            index=run_id_of,
        )

    metrics = Metrics()
    notices = Notices(
        api=api, namespace=namespace, log=log, now=now, count=lambda reason: metrics.happenings.labels(reason).inc()
    )
    tracker = Tracker(
        api=api,
        store=store,
        namespace=namespace,
        mirrors=Mirrors(
            runs=mirror(RUN, ""), jobs=mirror(JOB, OURS), pytorchjobs=mirror(PYTORCHJOB, OURS), pods=mirror(POD, OURS)
        ),
        seen=LastSeen(),
        tails=LogTails(api=api, spawn=spawn),
        read_profiles=lambda: read_profiles(profiles),
        pin=pin,
        notices=notices,
        now=now,
    )
    reconciler = Reconciler(
        api=api,
        store=store,
        namespace=namespace,
        tracker=tracker,
        showing=Showing(api=api, store=store, namespace=namespace, notices=notices, now=now),
        notices=notices,
        now=now,
    )
    health = Health(now=now)
    for one in tracker.mirrors.all:
        health.say(f"watch of {one.kind.kind}", "has not been listed yet")
    health.say("store", "has not been asked yet")
    board.controller = Controller(
        reconciler=reconciler,
        health=health,
        metrics=metrics,
        log=log,
        now=now,
        random=random,
        ask_store=lambda: probe(store),
    )
    return board.controller
