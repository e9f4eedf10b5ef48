"""The jobs and pods of a namespace as they were last seen, those that are gone included until they are recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tandem.control.api import Api, Object
from tandem.control.names import RUN_ID
from tandem.control.pods import find_container, has_begun
from tandem.errors import TandemError

MOST_KEPT = 20_000
"""Pods that are gone, and logs, that are kept; the oldest go first."""
TAIL_SECONDS = 5.0
"""How long the end of a log is waited for at a time."""


@dataclass(kw_only=True)
class LastSeen:
    """Pods by the uid of their job, kept when they are deleted: their last words stand in what was seen last."""

    _gone: dict[str, Object] = field(default_factory=dict)
    """By the pod's uid, oldest first."""
    _recorded: dict[str, None] = field(default_factory=dict)
    """Uids of jobs that have been recorded, oldest first: the ends of their pods tell nothing new."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_gone(self, pod: Object) -> None:
        """Keep a deleted pod."""
        with self._lock:
            if owner_uid(pod) in self._recorded:
                return
            self._gone[pod["metadata"]["uid"]] = pod
            _shorten(self._gone)

    def find_gone(self, job_uid: str) -> list[Object]:
        """The deleted pods of a job."""
        with self._lock:
            return [pod for pod in self._gone.values() if owner_uid(pod) == job_uid]

    def is_recorded(self, job_uid: str | None) -> bool:
        """Whether nothing more has to be known of a job's pods."""
        with self._lock:
            return job_uid in self._recorded

    def forget(self, job_uid: str) -> None:
        """Drop the pods of a job that has been recorded."""
        with self._lock:
            self._recorded[job_uid] = None
            _shorten(self._recorded)
            for uid in [uid for uid, pod in self._gone.items() if owner_uid(pod) == job_uid]:
                del self._gone[uid]


def _shorten(kept: dict[str, Any]) -> None:
    while len(kept) > MOST_KEPT:
        del kept[next(iter(kept))]


def owner_uid(one: Object) -> str | None:
    """The uid of what an object belongs to."""
    references = one["metadata"].get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)


def run_id_of(one: Object) -> str | None:
    """The Run for which a controller made an object."""
    found: str | None = (one["metadata"].get("labels") or {}).get(RUN_ID)
    return found


@dataclass(kw_only=True)
class Tail:
    """A log that is read while its pod goes."""

    text: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    """Whether it ended, or broke off: nothing more comes."""
    wait: Callable[[float], None] = lambda _: None
    """Waits for more of it, at most so many seconds."""


@dataclass(kw_only=True)
class LogTails:
    """Reads the logs of pods that are about to be deleted, to their end: afterwards nobody can."""

    api: Api
    spawn: Callable[[Callable[[], None]], Callable[[float], None]]
    """Starts a function beside this one; what it returns waits for it, at most so many seconds."""
    _tails: dict[str, Tail] = field(default_factory=dict)
    """By the pod's uid, oldest first."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, namespace: str, pod: Object) -> None:
        """Begin to read a pod's log, once, but again if nothing came of it; one that has not begun has none."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if not has_begun(pod):
            return
        with self._lock:
            known = self._tails.get(uid)
            if known is not None and (known.text or not known.is_whole):
                return
            tail = self._tails[uid] = Tail()
            _shorten(self._tails)

        def read() -> None:
            # What has been read before it breaks off is kept.
            with suppress(TandemError):
                for piece in self.api.follow_log(namespace, name, find_container(pod)):
                    tail.text.extend(piece)
            tail.is_whole = True

        tail.wait = self.spawn(read)

    def find(self, uid: str) -> Tail | None:
        """What a pod said, as far as it can be had within some seconds; None if its log was not followed."""
        with self._lock:
            tail = self._tails.get(uid)
        if tail is not None and not tail.is_whole:
            tail.wait(TAIL_SECONDS)
        return tail

    def forget(self, uid: str) -> None:
        """Drop a log that has been recorded."""
        with self._lock:
            self._tails.pop(uid, None)


def spawn_thread(work: Callable[[], None]) -> Callable[[float], None]:
    """Start a function in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread.join
