"""What tandem asks of a Kubernetes API server: the contract that the real one and the one in memory both keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tandem.errors import BadConfiguration, Fault, PermanentError, RetryableError, Unavailable

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


class NotFound(PermanentError):
    """There is no such object, or the server knows no such kind."""

    code = "not-found"


class AlreadyExists(PermanentError):
    """An object of this name is there; nothing was changed."""

    code = "already-exists"


class Expired(RetryableError):
    """The server does not remember that far back: list again."""

    code = "expired"


class Conflict(RetryableError):
    """The object changed meanwhile, or is not the one that was meant."""

    code = "conflict"


class Forbidden(BadConfiguration):
    """The account may not do this."""

    code = "forbidden"


class Refused(BadConfiguration):
    """The server takes no such object."""

    code = "refused"


class Busy(Unavailable):
    """The server is away or has too much to do."""

    def __init__(self, fault: Fault, *, after: float | None = None) -> None:
        super().__init__(fault)
        self.after = after
        """Seconds that it asked to be left alone; None: it did not say."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of object."""

    group: str
    """Empty for the core group."""
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects have it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Where a server tells which kinds it has of this group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Where objects of this kind are on a server."""
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace is not None else ""
        parts = "".join(f"/{part}" for part in (name, subresource) if part is not None)
        return f"{self.root}{inside}/{self.plural}{parts}"


RUN = Kind(group="tandem.dev", version="v1alpha1", kind="Run", plural="runs")
JOB = Kind(group="batch", version="v1", kind="Job", plural="jobs")
PYTORCHJOB = Kind(group="kubeflow.org", version="v1", kind="PyTorchJob", plural="pytorchjobs")
POD = Kind(group="", version="v1", kind="Pod", plural="pods")
EVENT = Kind(group="", version="v1", kind="Event", plural="events")
CONFIG_MAP = Kind(group="", version="v1", kind="ConfigMap", plural="configmaps")
SECRET = Kind(group="", version="v1", kind="Secret", plural="secrets")
CLAIM = Kind(group="", version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims")
SERVICE_ACCOUNT = Kind(group="", version="v1", kind="ServiceAccount", plural="serviceaccounts")
NAMESPACE = Kind(group="", version="v1", kind="Namespace", plural="namespaces", namespaced=False)
DEPLOYMENT = Kind(group="apps", version="v1", kind="Deployment", plural="deployments")
WORKLOAD = Kind(group="kueue.x-k8s.io", version="v1beta1", kind="Workload", plural="workloads")
LOCAL_QUEUE = Kind(group="kueue.x-k8s.io", version="v1beta1", kind="LocalQueue", plural="localqueues")
ACCESS_REVIEW = Kind(
    group="authorization.k8s.io",
    version="v1",
    kind="SelfSubjectAccessReview",
    plural="selfsubjectaccessreviews",
    namespaced=False,
)
JOB_KINDS = {"Job": JOB, "PyTorchJob": PYTORCHJOB}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a listing."""

    items: tuple[Object, ...]
    version: str
    """Where a watch goes on from."""
    rest: str | None = None
    """What to ask for the next page with; None: this was the last."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a watch tells."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


Propagation = Literal["Foreground", "Background"]


class Api(Protocol):
    """A Kubernetes API server.

    Every method raises Busy while it is away or overloaded, Forbidden for what the account may not do, NotFound for
    an object or kind that is not there, and Refused for what it does not take; no other error leaves it.
    """

    def serves(self, kind: Kind) -> bool:
        """Whether the server knows this kind in this version; by Kubernetes' own roles all users may ask."""
        ...

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object."""
        ...

    def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", limit: int = 500, rest: str | None = None
    ) -> Page:
        """A page of objects. Raises Expired if the listing that `rest` belongs to is too old."""
        ...

    def watch(
        self, kind: Kind, namespace: str | None, *, version: str, selector: str = "", seconds: float = 300.0
    ) -> Iterator[Change]:
        """Changes after a version, until the server ends it, at the latest after so many seconds.

        Raises Expired if the version is too old.
        """
        ...

    def create(
        self, kind: Kind, namespace: str | None, body: Object, *, strict: bool = False, dry_run: bool = False
    ) -> Object:
        """Make an object. Raises AlreadyExists. `strict` refuses fields that the server does not know."""
        ...

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """Delete an object; one that is gone is no error. Raises Conflict if it is not the one with this uid."""
        ...

    def merge(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """Change fields of an object (JSON merge patch)."""
        ...

    def apply_status(self, kind: Kind, namespace: str | None, name: str, status: Object, *, manager: str) -> Object:
        """Have the status be this (server-side apply, by force): what this manager set before and leaves out goes."""
        ...

    def read_log(self, namespace: str, pod: str, container: str, *, tail_lines: int | None = None) -> bytes:
        """What a container has said so far."""
        ...

    def follow_log(self, namespace: str, pod: str, container: str) -> Iterator[bytes]:
        """What a container says, in pieces, until it ends. Cut off, it ends early."""
        ...


def list_all(
    api: Api, kind: Kind, namespace: str | None, *, selector: str = "", limit: int = 500
) -> tuple[list[Object], str]:
    """All objects, page by page, and the version to watch from. Raises Expired if that took too long."""
    found: list[Object] = []
    rest: str | None = None
    while True:
        page = api.list(kind, namespace, selector=selector, limit=limit, rest=rest)
        found += page.items
        rest = page.rest
        if rest is None:
            return found, page.version
