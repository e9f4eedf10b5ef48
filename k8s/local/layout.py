"""Where the full cluster keeps its files, and the addresses in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from k8s.local import control_plane
from k8s.local.tools import cache

HOST = "10.98.0.2"
"""This machine, as seen from the cluster: a server of a test listens here."""
NODE_ADDRESS = "10.98.0.1"
"""Everything of the cluster that is reached from this machine and from pods: API server, registry, S3, DNS."""
PREFIX = 24
PODS = "10.99.0.0/24"
INTERFACE = "tandem-local"
REGISTRY = f"{NODE_ADDRESS}:5000"
S3_PORT = 7070
S3 = f"http://{NODE_ADDRESS}:{S3_PORT}"
S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION = "tandem", "tandem-local-cluster", "us-east-1"
ADDRESSES = control_plane.Addresses(
    host=NODE_ADDRESS, etcd=2379, etcd_peer=2380, apiserver=6443, controller_manager=10257
)
SMALL_IMAGE = "tandem.local/small:1"
OPERATOR_IMAGE = "tandem.local/training-operator"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders of the cluster: what a start makes anew, and what the next start uses again."""

    folder: Path

    @property
    def run(self) -> Path:
        """Of one start: databases, keys, logs, pid files, the S3 server's objects."""
        return self.folder / "run"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.run / "kubeconfig"

    @property
    def containerd(self) -> Path:
        """Images that were pulled."""
        return self.folder / "containerd"

    @property
    def registry(self) -> Path:
        """Images that were pushed."""
        return self.folder / "registry"

    @property
    def settings(self) -> Path:
        """Kernel settings as they were."""
        return self.folder / "kernel-settings.json"

    @property
    def mountpoints(self) -> Path:
        """Folders that were made for the cluster to mount something there."""
        return self.folder / "mountpoints.json"


def default() -> Layout:
    """The one in TANDEM_CLUSTER_FOLDER, or beside what else this user keeps."""
    named = os.environ.get("TANDEM_CLUSTER_FOLDER")
    return Layout(folder=Path(named).resolve() if named else cache() / "cluster")
