"""Both API servers: the real one and the one in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tandem.control.cluster import Cluster, connect
from tandem.control.fake import FakeApi
from tests.cluster import ApiServer
from tests.control.servers import Server, make_namespace


@pytest.fixture(scope="session")
def real(api_server: ApiServer) -> Cluster:
    """The real server with the custom resource."""
    api_server.install_runs()
    return connect(kubeconfig=str(api_server.kubeconfig))


@pytest.fixture(params=["memory", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each of the two."""
    if request.param == "memory":
        yield Server(api=FakeApi(), namespace="contract")
        return
    cluster = request.getfixturevalue("real")
    yield Server(api=cluster, namespace=make_namespace(cluster))
