"""A copy of all objects of one kind in a namespace, kept up to date by listing once and watching from there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.control.api import Api, Busy, Expired, Kind, Object, list_all
from tandem.errors import RetryableError, TandemError

WATCH_SECONDS = 240.0
"""How long one watch lasts; half as long again at most, so that watches do not end together."""
RELIST_SECONDS = 1800.0
"""How old a listing may get: a watch that lost something is put right by the next one."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


@dataclass(kw_only=True)
class Mirror:
    """The objects of one kind; who changes is told to `notify` together with whether it is gone."""

    api: Api
    kind: Kind
    namespace: str
    selector: str
    now: Callable[[], float]
    random: Callable[[], float]
    notify: Callable[[Object, bool], None]
    index: Callable[[Object], str | None] = lambda _: None
    """A key by which `find` gives objects."""
    objects: dict[str, Object] = field(default_factory=dict)
    """By name."""
    failures: int = 0
    """In a row."""
    error: TandemError | None = None
    """The last failure; None while all is well."""
    is_synced: bool = False
    """Whether it has been listed whole once."""
    _by_key: dict[str, set[str]] = field(default_factory=dict)
    _version: str | None = None
    _listed_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """List if that is due, else watch until the server ends the watch. Raises what the API server says.

        After Expired the next call lists.
        """
        try:
            if self._version is None or self.now() - self._listed_at >= RELIST_SECONDS:
                self._list()
            else:
                self._watch(self._version)
        except Expired:
            self._version = None
        except TandemError as error:
            self.failures += 1
            self.error = error
            if not isinstance(error, RetryableError):
                self._version = None
            raise
        self.failures = 0
        self.error = None

    def pause(self) -> float:
        """Seconds to wait after a failure: 1, 2, 4, ... 30, between half and all of it; longer if the server asks."""
        bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures - 1, 10))
        asked = self.error.after if isinstance(self.error, Busy) else None
        return max(bound * (0.5 + 0.5 * self.random()), asked or 0.0)

    def get(self, name: str) -> Object | None:
        """The object of this name as last seen."""
        with self._lock:
            return self.objects.get(name)

    def find(self, key: str) -> list[Object]:
        """The objects whose index is this, by name."""
        with self._lock:
            return [self.objects[name] for name in sorted(self._by_key.get(key, ()))]

    def all(self) -> list[Object]:
        """Every object, by name."""
        with self._lock:
            return [self.objects[name] for name in sorted(self.objects)]

    def _list(self) -> None:
        found, version = list_all(self.api, self.kind, self.namespace, selector=self.selector)
        names = {one["metadata"]["name"] for one in found}
        gone = [one for name, one in list(self.objects.items()) if name not in names]
        for one in gone:
            self._remove(one)
        for one in found:
            self._put(one)
        self._version, self._listed_at, self.is_synced = version, self.now(), True

    def _watch(self, version: str) -> None:
        seconds = WATCH_SECONDS * (1.0 + 0.5 * self.random())
        changes = self.api.watch(self.kind, self.namespace, version=version, selector=self.selector, seconds=seconds)
        for change in changes:
            if change.type == "DELETED":
                self._remove(change.object)
            elif change.type != "BOOKMARK":
                self._put(change.object)
            self._version = change.object["metadata"]["resourceVersion"]

    def _put(self, one: Object) -> None:
        name = one["metadata"]["name"]
        with self._lock:
            before = self.objects.get(name)
            replaced = before if before is not None and before["metadata"]["uid"] != one["metadata"]["uid"] else None
            self._unindex(name)
            self.objects[name] = one
            key = self.index(one)
            if key is not None:
                self._by_key.setdefault(key, set()).add(name)
        if replaced is not None:
            self.notify(replaced, True)
        if before is None or before["metadata"].get("resourceVersion") != one["metadata"].get("resourceVersion"):
            self.notify(one, False)

    def _remove(self, one: Object) -> None:
        name = one["metadata"]["name"]
        with self._lock:
            known = self.objects.get(name)
            if known is not None and known["metadata"]["uid"] == one["metadata"]["uid"]:
                self._unindex(name)
                del self.objects[name]
        self.notify(one, True)

    def _unindex(self, name: str) -> None:
        before = self.objects.get(name)
        key = None if before is None else self.index(before)
        if key is not None:
            self._by_key[key].discard(name)
            if not self._by_key[key]:
                del self._by_key[key]
