"""Checkpoints on their way to the store, in a thread beside the training. Nothing here waits for another rank."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tandem.errors import Fault, RetryableError, Stopped, TandemError, Unavailable
from tandem.store import FileDigest, NotThere, Store
from tandem.store.keys import join
from tandem.store.manifest import MANIFEST, decode_manifest, encode_manifest, list_folder
from tandem.store.parallel import in_parallel
from tandem.store.trees import put_same, put_same_file
from tandem.train.checkpoints import PROGRESS, rotate_checkpoints

logger = logging.getLogger("tandem.train")

MOST_UNSENT = 3
"""Checkpoints of a node that may be on their way while training goes on."""
FILES_AT_ONCE = 4
"""Each holds at most four parts of 8 MiB in memory."""
RETRY_SECONDS = 60.0
"""Until a checkpoint that did not arrive is tried again, unless something asks for it sooner."""
POLL_SECONDS = 1.0
"""Between two looks for the other nodes' parts."""


def send_part(store: Store, folder: Path, prefix: str, *, leader: int, sent: dict[str, FileDigest]) -> None:
    """Put one node's files of a checkpoint into the store, and after them the list of them, its part manifest.

    leader is the rank that leads the node; rank 0's node alone sends PROGRESS, which all have. What only one node has
    (the adapter) and what each has of its own (optimizer states) never share a name. `sent` holds what is there
    already, and is added to. Raises as Store does.
    """
    paths = [path for path in list_folder(folder) if path not in sent and (leader == 0 or path != PROGRESS)]

    def send(path: str) -> None:
        sent[path] = put_same_file(store, join(prefix, path), folder / path)

    in_parallel(send, paths, FILES_AT_ONCE)
    put_same(store, _part_key(prefix, leader), encode_manifest(sent))


def commit_parts(store: Store, prefix: str, leaders: Sequence[int]) -> bool:
    """Write the manifest of a checkpoint if every node's part is there; whether they were. Raises as Store does."""
    manifest: dict[str, FileDigest] = {}
    for leader in leaders:
        key = _part_key(prefix, leader)
        try:
            manifest |= decode_manifest(store.get(key), where=f"{store.url}/{key}")
        except NotThere:
            return False
    put_same(store, join(prefix, MANIFEST), encode_manifest(manifest))
    return True


def _part_key(prefix: str, leader: int) -> str:
    return join(prefix, f"parts/{leader:05d}.json")


@dataclass(kw_only=True, eq=False)
class _Underway:
    folder: Path
    prefix: str
    files: dict[str, FileDigest] = field(default_factory=dict)
    sent: bool = False
    """This node's part is in the store."""


class Uploads:
    """One node's checkpoints, brought into the store in order; rank 0's node also commits them.

    What did not arrive is said, and tried again with the next checkpoint, after a while, and at the end. A folder
    stays on this disk until its files are in the store.
    """

    def __init__(
        self,
        store: Store,
        *,
        execution: str,
        leader: int,
        leaders: Sequence[int],
        keep: int,
        clock: Callable[[], float],
        patience: float,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        """`leaders` are the ranks that lead the nodes; `patience` is how many seconds training waits for a place.

        Who was asked to stop waits for no place.
        """
        self._store, self._execution, self._leader, self._leaders = store, execution, leader, tuple(leaders)
        self._keep, self._clock, self._patience, self._stop_asked = keep, clock, patience, stop_asked
        self._changed = threading.Condition()
        self._underway: list[_Underway] = []
        self._trouble: Exception | None = None
        self._rounds = 0
        self._asked = self._ending = self._closed = False

    @property
    def failed(self) -> bool:
        """Whether something is wrong that waiting does not mend."""
        return self._trouble is not None and not isinstance(self._trouble, RetryableError)

    def start(self) -> None:
        """Begin to work in the background."""
        threading.Thread(target=self._work, name="uploads", daemon=True).start()

    def add(self, folder: Path) -> None:
        """Hand over a finished checkpoint. Waits while too many are on their way, and says so.

        Raises Unavailable if none of them arrives within the patience.
        """
        with self._changed:
            self._underway.append(_Underway(folder=folder, prefix=join(self._execution, f"checkpoints/{folder.name}")))
            self._ask()
            if self._count_unsent() <= MOST_UNSENT:
                return
            logger.warning("training waits: %d checkpoints are on their way to the store", self._count_unsent())
            until = self._clock() + self._patience
            while self._count_unsent() > MOST_UNSENT and not self.failed and not self._stop_asked():
                if self._clock() >= until:
                    raise self._give_up()
                self._changed.wait(1.0)

    def wait_until_sent(self, *, patient: bool, seconds: float | None = None) -> None:
        """Wait until all of this node's files are in the store, the newest checkpoint first from now on.

        Raises what keeps them from there: after one more try, or if not patient after the one that is under way; and
        Stopped if they are still under way after so many seconds.
        """
        self._wait_until(lambda: self._count_unsent() == 0, rounds=2 if patient else 1, seconds=seconds)

    def wait_until_committed(self, *, seconds: float | None = None) -> None:
        """The same for the manifests that rank 0's node writes; to be called when every node's files are there."""
        self._wait_until(lambda: not self._underway, rounds=2, seconds=seconds)

    def close(self, *, seconds: float) -> None:
        """Give what is under way this long to arrive, then end the thread; raises nothing."""
        until = self._clock() + seconds
        with self._changed:
            self._ending = True
            self._ask()
            while self._underway and not self.failed and not self._closed and self._clock() < until:
                self._changed.wait(1.0)
            self._closed = True
            self._ask()

    def attend(self) -> float | None:
        """One round: do what can be done now. Seconds until there may be more to do, None if nothing is under way."""
        with self._changed:
            underway = self._underway[::-1] if self._ending else self._underway[:]
        pause: float | None = None
        trouble: Exception | None = None
        for one in underway:
            try:
                done = self._advance(one)
            except Exception as error:  # noqa: BLE001 - the thread must live; the training raises it in its time
                trouble, pause = error, RETRY_SECONDS
                logger.warning("checkpoint %s is not in the store yet: %s", one.folder.name, _describe(error))
                break
            if done:
                with self._changed:
                    self._underway.remove(one)
            else:
                pause = POLL_SECONDS
        with self._changed:
            self._trouble = trouble
            self._rounds += 1
            self._changed.notify_all()
        return pause

    def _advance(self, one: _Underway) -> bool:
        if not one.sent:
            send_part(self._store, one.folder, one.prefix, leader=self._leader, sent=one.files)
            with self._changed:
                one.sent = True
                needed = [other.folder for other in self._underway if not other.sent]
                self._changed.notify_all()
            rotate_checkpoints(one.folder.parent, keep=self._keep, needed=needed)
        if self._leader != 0:
            return True
        return commit_parts(self._store, one.prefix, self._leaders)

    def _work(self) -> None:
        if sys.platform.startswith("linux"):  # of this thread alone, and of those that it starts
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        pause: float | None = None
        while True:
            with self._changed:
                if not self._asked:
                    self._changed.wait(pause)
                self._asked = False
                if self._closed:
                    return
            pause = self.attend()

    def _wait_until(self, done: Callable[[], bool], *, rounds: int, seconds: float | None) -> None:
        until = math.inf if seconds is None else self._clock() + seconds
        with self._changed:
            self._ending = True
            began = self._rounds
            self._ask()
            while not done():
                if self._trouble is not None and self._rounds - began >= rounds:
                    raise self._trouble
                if self._clock() >= until:
                    raise self._too_late()
                seen = self._rounds
                self._changed.wait_for(lambda seen=seen: done() or self._rounds > seen, timeout=1.0)  # type: ignore[misc]
                if self._trouble is not None and self._rounds > seen:
                    self._ask()

    def _ask(self) -> None:
        self._asked = True
        self._changed.notify_all()

    def _count_unsent(self) -> int:
        return sum(not one.sent for one in self._underway)

    def _too_late(self) -> Stopped:
        return Stopped(
            Fault(
                where=self._store.url,
                what="training was told to stop, and the store is too slow to take its last checkpoint in time",
                remedy="The next attempt goes on from the newest checkpoint that is there.",
            )
        )

    def _give_up(self) -> Exception:
        if self._trouble is not None:
            return self._trouble
        return Unavailable(
            Fault(
                where=self._store.url,
                what=f"it takes checkpoints more slowly than training makes them ({self._count_unsent()} wait)",
                remedy="Raise train.checkpoints.everySteps, or give the store a faster network.",
            )
        )


def _describe(error: Exception) -> str:
    return str(error.faults[0]) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
