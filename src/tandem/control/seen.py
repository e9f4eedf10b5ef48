"""The jobs and pods of a namespace as they were last seen, those that are gone included until they are recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tandem.control.api import Api, Object
from tandem.errors import TandemError

MOST_KEPT = 20_000
"""Pods that are gone and kept; the oldest go first."""


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


@dataclass(kw_only=True)
class LogTails:
    """Reads the logs of pods that are about to be deleted, to their end: afterwards nobody can."""

    api: Api
    spawn: Callable[[Callable[[], None]], Callable[[float], None]]
    """Starts a function beside this one; what it returns waits for it, at most so many seconds."""
    _texts: dict[str, bytearray] = field(default_factory=dict)
    _waits: dict[str, Callable[[float], None]] = field(default_factory=dict)

    def follow(self, namespace: str, pod: Object, container: str) -> None:
        """Begin to read a pod's log, once."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if uid in self._texts:
            return
        text = self._texts[uid] = bytearray()

        def read() -> None:
            for piece in _quietly(self.api.follow_log(namespace, name, container)):
                text.extend(piece)

        self._waits[uid] = self.spawn(read)

    def take(self, uid: str) -> bytes | None:
        """What a pod said, and forget it; None if its log was not followed, or nothing of it came."""
        if uid not in self._texts:
            return None
        self._waits.pop(uid)(5.0)
        return bytes(self._texts.pop(uid)) or None


def _quietly(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces up to the first failure: what has been read is kept."""
    try:
        yield from pieces
    except TandemError:
        return


def spawn_thread(work: Callable[[], None]) -> Callable[[float], None]:
    """Start a function in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread.join
