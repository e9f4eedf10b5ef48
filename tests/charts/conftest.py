"""Namespaces of a real API server for the tests of the charts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count

import pytest

from tests.charts.cluster import Namespace, teach
from tests.cluster import ApiServer

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def taught_server(api_server: ApiServer) -> ApiServer:
    """The API server, with the custom resources."""
    teach(api_server)
    return api_server


@pytest.fixture
def new_namespace(taught_server: ApiServer) -> Callable[[], Namespace]:
    """Makes namespaces that hold their pods to the restricted Pod Security Standard."""

    def make() -> Namespace:
        name = f"charts-{next(_NUMBERS)}"
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        found = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        taught_server.kubectl("create", "-f", "-", given=json.dumps(found))
        return Namespace(server=taught_server, name=name)

    return make


@pytest.fixture
def namespace(new_namespace: Callable[[], Namespace]) -> Namespace:
    """A namespace of the test's own."""
    return new_namespace()
