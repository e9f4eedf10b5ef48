"""Kubernetes for tests: an API server of their own, or a whole cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8s.local import control_plane
from k8s.local.control_plane import ControlPlane


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """A real API server with controllers and without nodes: what is made there is checked, but no pod runs."""

    kubeconfig: Path
    plane: ControlPlane

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints; a failure is a CalledProcessError with stderr."""
        return self.plane.run_kubectl(*arguments, given=given)


@contextmanager
def api_server_running(folder: Path) -> Iterator[ApiServer]:
    """An API server, its etcd and the controller manager, on free ports, for as long as the context lasts."""
    with control_plane.running(folder) as plane:
        yield ApiServer(kubeconfig=plane.kubeconfig, plane=plane)
