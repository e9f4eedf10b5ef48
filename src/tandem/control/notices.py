"""What happens to a Run, told in three places: the log, the cluster's Events, the metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tandem.control.api import EVENT, AlreadyExists, Api, Object
from tandem.control.names import MANAGER
from tandem.control.times import write_time
from tandem.errors import TandemError
from tandem.spec.run import API_VERSION, KIND

_WARNINGS = ("Refused", "Failed", "NotCounted", "Stalled", "AttemptFailed")
_LONGEST = 1000
"""Characters of an Event's message; Kubernetes takes 1024."""


class Log(Protocol):
    """A structured log."""

    def info(self, event: str, **values: Any) -> Any:
        """Say what happened."""
        ...

    def warning(self, event: str, **values: Any) -> Any:
        """Say what someone should look at."""
        ...


@dataclass(frozen=True, kw_only=True)
class Notices:
    """Tells what happens to Runs."""

    api: Api
    namespace: str
    log: Log
    now: Callable[[], float]
    count: Callable[[str], None] = lambda _: None
    """Told each reason, for the metrics."""

    def tell(self, run: Object, reason: str, message: str, **values: Any) -> None:
        """Write a line and an Event; that an Event cannot be written is a line only."""
        is_warning = reason in _WARNINGS
        self.count(reason)
        metadata = run["metadata"]
        (self.log.warning if is_warning else self.log.info)(message, reason=reason, run=metadata["name"], **values)
        try:
            self._write(run, reason, message[:_LONGEST], "Warning" if is_warning else "Normal")
        except TandemError as error:
            self.log.warning("the Event could not be written", run=metadata["name"], error=str(error))

    def _write(self, run: Object, reason: str, message: str, type_: str) -> None:
        metadata, time = run["metadata"], write_time(self.now())
        digest = hashlib.sha256(f"{metadata['uid']} {reason} {message}".encode()).hexdigest()[:16]
        name = f"{metadata['name']}.{digest}"
        body = {
            "metadata": {"name": name, "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata["name"],
                "namespace": self.namespace,
                "uid": metadata["uid"],
            },
            "reason": reason,
            "message": message,
            "type": type_,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": MANAGER,
        }
        try:
            self.api.create(EVENT, self.namespace, body)
        except AlreadyExists:
            self.api.merge(EVENT, self.namespace, name, {"lastTimestamp": time})
