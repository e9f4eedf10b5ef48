"""API servers for tests, each with namespaces of one's own in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from tandem.control.api import NAMESPACE, Api
from tandem.control.cluster import Cluster

_NUMBERS = count(1)


@dataclass(frozen=True, kw_only=True)
class Server:
    """An API server and a namespace of one's own in it."""

    api: Api
    namespace: str


def make_namespace(cluster: Cluster) -> str:
    """A new namespace on a real server."""
    name = f"contract-{next(_NUMBERS)}"
    cluster.create(NAMESPACE, None, {"metadata": {"name": name}})
    return name
