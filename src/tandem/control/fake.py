"""A Kubernetes API server in memory: keeps the contract of Api, and runs nothing."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tandem.control.api import (
    ACCESS_REVIEW,
    AlreadyExists,
    Change,
    Conflict,
    Expired,
    Forbidden,
    Kind,
    NotFound,
    Object,
    Page,
    Propagation,
)
from tandem.errors import Fault

_FOREGROUND = "foregroundDeletion"
_TIME = "2026-01-01T00:00:00Z"

Objects: TypeAlias = list[tuple[Kind, Object]]
Key = tuple[str, str, str]
"""Plural, namespace (empty if it has none) and name."""


def _allow(verb: str, kind: Kind, name: str) -> None:  # noqa: ARG001 - the shape of a hook
    return


@dataclass(kw_only=True)
class FakeApi:
    """Objects by name, with versions, watches and what depends on what.

    A pod that has a node and has not ended stays until `remove` says that its node has ended it.
    """

    before: Callable[[str, Kind, str], None] = _allow
    """Called before each request with its verb, kind and name: raise an error here to have one."""
    unknown: frozenset[str] = frozenset()
    """Plurals of kinds that this server does not know."""
    forbidden: frozenset[tuple[str, str]] = frozenset()
    """Verb and plural (pods/log for a part) of what the account may not do."""
    logs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """What pods have said, by namespace and name."""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Verb, plural and name of every request."""
    namespace: str = "default"
    """That of the login."""
    time: Callable[[], str] = lambda: _TIME
    """What the server's clock says: UTC, ISO 8601."""
    _objects: dict[Key, Object] = field(default_factory=dict)
    _history: list[tuple[int, Kind, Change]] = field(default_factory=list)
    _forgotten: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _version: int = 0
    _lock: Any = field(default_factory=threading.RLock)

    def serves(self, kind: Kind) -> bool:
        """See Api."""
        return kind.plural not in self.unknown

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """See Api."""
        with self._request("get", kind, name):
            return copy.deepcopy(self._find(kind, namespace, name))

    def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", limit: int = 500, rest: str | None = None
    ) -> Page:
        """See Api."""
        with self._request("list", kind, ""):
            after, version = ("", self._version)
            if rest is not None:
                number, _, after = rest.partition(":")
                version = int(number)
                if version < self._forgotten:
                    raise _expired(kind)
            places = sorted(
                f"{key[1]}/{key[2]}"
                for key, one in self._objects.items()
                if self._is_meant(key, kind, namespace, one, selector)
            )
            places = [place for place in places if place > after]
            items = tuple(copy.deepcopy(self._find(kind, *place.split("/"))) for place in places[:limit])
            more = f"{version}:{places[limit - 1]}" if len(places) > limit else None
            return Page(items=items, version=str(version), rest=more)

    def watch(
        self, kind: Kind, namespace: str | None, *, version: str, selector: str = "", seconds: float = 300.0
    ) -> Iterator[Change]:
        """See Api; it ends at once when there is nothing new, as a server does when the time is over."""
        with self._request("watch", kind, ""):
            if int(version) < self._forgotten:
                raise _expired(kind)
            news = [
                copy.deepcopy(change)
                for number, of, change in self._history
                if number > int(version)
                and of == kind
                and self._is_meant(_key(kind, change.object), kind, namespace, change.object, selector)
            ]
            bookmark = Change(type="BOOKMARK", object={"metadata": {"resourceVersion": str(self._version)}})
        yield from news
        yield bookmark

    def create(
        self, kind: Kind, namespace: str | None, body: Object, *, strict: bool = False, dry_run: bool = False
    ) -> Object:
        """See Api."""
        name = str((body.get("metadata") or {}).get("name", ""))
        with self._request("create", kind, name):
            if kind == ACCESS_REVIEW:
                return {**copy.deepcopy(body), "status": {"allowed": self._allows(body["spec"]["resourceAttributes"])}}
            made = {"apiVersion": kind.api_version, "kind": kind.kind, **copy.deepcopy(body)}
            metadata = made.setdefault("metadata", {})
            if not name:
                metadata["name"] = f"{metadata['generateName']}{next(self._numbers):05d}"
            if kind.namespaced:
                metadata["namespace"] = namespace
            if _key(kind, made) in self._objects:
                raise AlreadyExists(Fault(where=name, what="is there already", remedy="Choose another name."))
            metadata["uid"] = f"uid-{next(self._numbers):06d}"
            metadata["generation"] = 1
            metadata["creationTimestamp"] = self.time()
            return copy.deepcopy(made) if dry_run else self._put(kind, made, "ADDED")

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """See Api."""
        with self._request("delete", kind, name):
            try:
                found = self._find(kind, namespace, name)
            except NotFound:
                return
            if uid is not None and found["metadata"]["uid"] != uid:
                raise Conflict(Fault(where=name, what="is another object of this name", remedy="Look again."))
            self._delete(kind, found, propagation)

    def merge(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """See Api."""
        with self._request("patch", kind, name):
            found = self._find(kind, namespace, name)
            changed = _merged(found, patch)
            if changed.get("spec") != found.get("spec"):
                changed["metadata"]["generation"] = int(found["metadata"].get("generation", 1)) + 1
            return self._put(kind, changed, "MODIFIED")

    def apply_status(self, kind: Kind, namespace: str | None, name: str, status: Object, *, manager: str) -> Object:
        """See Api; there is one manager here."""
        with self._request("apply_status", kind, name):
            found = self._find(kind, namespace, name)
            if found.get("status") == status:
                return copy.deepcopy(found)
            return self._put(kind, {**found, "status": copy.deepcopy(status)}, "MODIFIED")

    def read_log(self, namespace: str, pod: str, container: str, *, tail_lines: int | None = None) -> bytes:
        """See Api."""
        with self._lock:
            self.calls.append(("log", "pods", pod))
            if (namespace, pod) not in self.logs:
                raise NotFound(Fault(where=pod, what="has no log", remedy="Check the name."))
            log = self.logs[namespace, pod]
            return log if tail_lines is None else b"".join(log.splitlines(keepends=True)[-tail_lines:])

    def follow_log(self, namespace: str, pod: str, container: str) -> Iterator[bytes]:
        """See Api; here nothing more is said."""
        yield self.read_log(namespace, pod, container)

    def change(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """Change an object as a controller or kubelet of the cluster would: without a request of ours."""
        with self._lock:
            return self._put(kind, _merged(self._find(kind, namespace, name), patch), "MODIFIED")

    def remove(self, kind: Kind, namespace: str | None, name: str) -> None:
        """Have an object be gone, as a kubelet does with a pod that has ended, and what waits for that too."""
        with self._lock:
            self._remove(kind, self._find(kind, namespace, name))

    def forget(self) -> None:
        """Remember no change before now: older versions have expired."""
        with self._lock:
            self._version += 1
            self._forgotten = self._version
            self._history.clear()

    def _request(self, verb: str, kind: Kind, name: str) -> Any:
        self.calls.append((verb, kind.plural, name))
        self.before(verb, kind, name)
        if (verb, kind.plural) in self.forbidden:
            raise Forbidden(Fault(where=kind.plural, what="is not permitted", remedy="Ask for this permission."))
        if kind.plural in self.unknown:
            raise NotFound(Fault(where=kind.plural, what="is no kind here", remedy="Install it."))
        return self._lock

    def _allows(self, asked: Object) -> bool:
        part = f"/{asked['subresource']}" if asked.get("subresource") else ""
        return (asked["verb"], f"{asked['resource']}{part}") not in self.forbidden

    def _find(self, kind: Kind, namespace: str | None, name: str) -> Object:
        key = (kind.plural, (namespace or "") if kind.namespaced else "", name)
        if key not in self._objects:
            raise NotFound(Fault(where=f"{kind.kind} {name}", what="is not there", remedy="Check the name."))
        return self._objects[key]

    def _put(self, kind: Kind, value: Object, type_: Any) -> Object:
        self._version += 1
        value = copy.deepcopy(value)
        value["metadata"]["resourceVersion"] = str(self._version)
        if type_ == "DELETED":
            self._objects.pop(_key(kind, value), None)
        else:
            self._objects[_key(kind, value)] = value
        self._history.append((self._version, kind, Change(type=type_, object=copy.deepcopy(value))))
        return copy.deepcopy(value)

    def _delete(self, kind: Kind, found: Object, propagation: Propagation) -> None:
        dependents = self._dependents(found)
        stays = kind.plural == "pods" and _is_running(found)
        if stays or (propagation == "Foreground" and dependents):
            if "deletionTimestamp" not in found["metadata"]:
                finalizers = [*found["metadata"].get("finalizers", []), *([] if stays else [_FOREGROUND])]
                metadata = {**found["metadata"], "deletionTimestamp": self.time(), "finalizers": finalizers}
                self._put(kind, {**found, "metadata": metadata}, "MODIFIED")
        else:
            self._put(kind, found, "DELETED")
        for of, one in dependents:
            self._delete(of, one, propagation)
        if not stays:
            self._let_go(found)

    def _remove(self, kind: Kind, found: Object) -> None:
        self._put(kind, found, "DELETED")
        self._let_go(found)

    def _let_go(self, gone: Object) -> None:
        """Remove owners that only waited for this."""
        owners = {reference["uid"] for reference in gone["metadata"].get("ownerReferences", ())}
        for key, one in tuple(self._objects.items()):
            waits = _FOREGROUND in one["metadata"].get("finalizers", ())
            if one["metadata"]["uid"] in owners and waits and not self._dependents(one):
                self._remove(_kind_of(key, one), one)

    def _dependents(self, owner: Object) -> Objects:
        uid = owner["metadata"]["uid"]
        return [
            (_kind_of(key, one), one)
            for key, one in self._objects.items()
            if any(reference["uid"] == uid for reference in one["metadata"].get("ownerReferences", ()))
        ]

    def _is_meant(self, key: Key, kind: Kind, namespace: str | None, one: Object, selector: str) -> bool:
        labels = one["metadata"].get("labels") or {}
        wanted = [part.partition("=") for part in selector.split(",") if part]
        return (
            key[0] == kind.plural
            and (namespace is None or not kind.namespaced or key[1] == namespace)
            and all(labels.get(name) == value for name, _, value in wanted)
        )


def _key(kind: Kind, value: Object) -> Key:
    metadata = value["metadata"]
    return kind.plural, (metadata.get("namespace") or "") if kind.namespaced else "", metadata["name"]


def _kind_of(key: Key, value: Object) -> Kind:
    group, _, version = str(value["apiVersion"]).rpartition("/")
    return Kind(group=group, version=version, kind=value["kind"], plural=key[0], namespaced=bool(key[1]))


def _is_running(pod: Object) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return bool((pod.get("spec") or {}).get("nodeName")) and not ended


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    base = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            base.pop(key, None)
        else:
            base[key] = _merged(base.get(key), change)
    return base


def _expired(kind: Kind) -> Expired:
    return Expired(Fault(where=kind.plural, what="the server has forgotten this version", remedy="List again."))
