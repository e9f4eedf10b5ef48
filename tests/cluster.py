"""Kubernetes for tests: an API server of their own, or a whole cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8s.local import cluster, control_plane, layout, machine, training_operator
from k8s.local.faults import Fault
from k8s.local.kubectl import kubectl
from k8s.local.layout import Layout
from k8s.local.traces import traces
from tandem.spec.crd import custom_resource_definition
from tests.servers import S3Server


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """A real API server with controllers and without nodes: what is made there is checked, but no pod runs."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints. Raises KubectlFailed, which has its stderr."""
        return kubectl(self.kubeconfig, *arguments, given=given)

    def install_runs(self) -> None:
        """Have it know Runs."""
        self.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(custom_resource_definition()))
        # Until the server has looked at its names it has no conditions, which kubectl takes for a fault.
        for sign in ("jsonpath={.status.acceptedNames.kind}=Run", "condition=Established"):
            self.kubectl("wait", f"--for={sign}", "crd/runs.tandem.dev", "--timeout=30s")

    def install_pytorchjobs(self) -> None:
        """Have it know PyTorchJobs, by the training operator's own definition; no operator acts on them."""
        training_operator.install_crds(self.kubeconfig)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A whole cluster with a training operator, a registry to push to, and an S3 server that its pods reach."""

    kubeconfig: Path
    registry: str
    s3: S3Server

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints. Raises KubectlFailed, which has its stderr."""
        return kubectl(self.kubeconfig, *arguments, given=given)


@contextmanager
def api_server_running(folder: Path) -> Iterator[ApiServer]:
    """An API server, its etcd and the controller manager, on free ports, for as long as the context lasts."""
    with control_plane.running(folder) as plane:
        yield ApiServer(kubeconfig=plane.kubeconfig)


@contextmanager
def cluster_to_use() -> Iterator[Cluster]:
    """The cluster that KUBECONFIG and TANDEM_E2E_REGISTRY lead to, or the local one, brought up for the context.

    Of a cluster of one's own, the standard AWS variables say where its S3 server is.
    """
    kubeconfig, registry = os.environ.get("KUBECONFIG"), os.environ.get("TANDEM_E2E_REGISTRY")
    if kubeconfig and registry:
        s3 = S3Server(
            endpoint=os.environ["AWS_ENDPOINT_URL_S3"],
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"],
        )
        yield Cluster(kubeconfig=Path(kubeconfig), registry=registry, s3=s3)
    else:
        with local_cluster_running() as local:
            yield local


@contextmanager
def local_cluster_running(folders: Layout | None = None) -> Iterator[Cluster]:
    """The local cluster: waited for when others use it, up within the context, gone without a trace after it."""
    folders = folders or layout.default()
    with cluster.locked(wait=True):
        if cluster.is_up(folders):
            raise Fault(
                "a local cluster is up: let the tests use it by "
                '`eval "$(python -m k8s.local env)"`, or take it down by `make cluster-down`'
            )
        machine.install_packages()
        cluster.down(folders)
        before = traces(folders)
        try:
            cluster.up(folders)
            yield local_cluster(folders)
        finally:
            cluster.down(folders)
            left = traces(folders) ^ before
        assert not left


def local_cluster(folders: Layout) -> Cluster:
    """The local cluster that is up."""
    s3 = S3Server(
        endpoint=layout.S3,
        access_key=layout.S3_ACCESS_KEY,
        secret_key=layout.S3_SECRET_KEY,
        region=layout.S3_REGION,
    )
    return Cluster(kubeconfig=folders.kubeconfig, registry=layout.REGISTRY, s3=s3)
