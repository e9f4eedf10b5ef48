"""What tests of several rooms share: S3 servers and an API server, one of each for a session, and a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.cluster import ApiServer, Cluster, api_server_running, cluster_to_use
from tests.servers import S3Server, moto_running, versitygw_running

settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, built on first use."""
    with versitygw_running(tmp_path_factory.mktemp("versitygw")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """The fake S3 server."""
    with moto_running() as server:
        yield server


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real Kubernetes API server without nodes, built on first use; make a namespace of your own in it."""
    with api_server_running(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A whole Kubernetes cluster. A machine has one at a time, so the next file that asks for it waits for this one."""
    with cluster_to_use() as found:
        yield found
