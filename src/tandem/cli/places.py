"""Where this machine keeps what tandem needs between commands."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.errors import BadConfiguration, Fault
from tandem.store import Store
from tandem.store.layout import RunPlace

LOCAL = "local"
"""The namespace of Runs made on one machine."""


def cache_folder() -> Path:
    """Folder for downloads, half-done work and locks; nothing in it is needed later."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tandem"


def scratch_folder(store: Store, place: RunPlace) -> Path:
    """The folder for half-done work of one Run: one for each store, so that equal ids do not meet."""
    return cache_folder() / "work" / f"{place.run_id}-{hashlib.sha256(store.url.encode()).hexdigest()[:10]}"


@contextmanager
def hold_run(scratch: Path, place: RunPlace) -> Iterator[None]:
    """Keep a second process of this machine from making the same Run. Raises BadConfiguration if one does.

    The kernel gives the lock back when this process ends, however it ends.
    """
    scratch.parent.mkdir(parents=True, exist_ok=True)
    path = scratch.with_suffix(".lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfiguration(
                Fault(
                    where=place.run_id,
                    what="another process of this machine is making this Run",
                    remedy="Wait for it, or stop it first.",
                )
            ) from None
        yield
