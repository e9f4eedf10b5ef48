"""What a batch cluster has beside Kubernetes itself: scheduler, DNS, registry, S3 server."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping

from k8s.local import layout
from k8s.local.control_plane import ControlPlane, answers
from k8s.local.layout import Layout
from k8s.local.processes import Program

TOOLS = ("kube-scheduler", "coredns", "registry", "versitygw")

COREFILE = """
cluster.local in-addr.arpa {{
    bind {address}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods verified
    }}
}}
. {{
    bind {address}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""
"""Other names do not exist: the cluster is cut off from the world. Nothing is cached: names are there at once."""

DNS_ROLE = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "tandem:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "tandem:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tandem:coredns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tandem:coredns"}],
        },
    ],
}


def scheduler(binary: str, plane: ControlPlane, environment: Mapping[str, str]) -> Program:
    """What gives pods to the node."""
    kubeconfig = plane.kubeconfig_of("scheduler")
    return Program(
        name="kube-scheduler",
        command=(
            binary,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--authentication-skip-lookup",
            "--bind-address=127.0.0.1",
            f"--cert-dir={plane.folder / 'certificates' / 'scheduler'}",
            "--leader-elect=false",
        ),
        environment=environment,
        ready=lambda: _listens("127.0.0.1", 10259),
    )


def coredns(binary: str, plane: ControlPlane, environment: Mapping[str, str]) -> Program:
    """Names of services and pods."""
    plane.run_kubectl("apply", "-f", "-", given=json.dumps(DNS_ROLE))
    corefile = plane.folder / "Corefile"
    corefile.write_text(COREFILE.format(address=layout.NODE_ADDRESS, kubeconfig=plane.kubeconfig_of("coredns")))
    return Program(
        name="coredns",
        command=(binary, "-conf", str(corefile)),
        environment=environment,
        ready=lambda: answers("http://127.0.0.1:8181/ready"),
    )


def registry(binary: str, folders: Layout, environment: Mapping[str, str]) -> Program:
    """A registry of images, plain http; it keeps what earlier starts were given."""
    folders.registry.mkdir(exist_ok=True)
    config = folders.run / "registry.json"
    content = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folders.registry)}, "delete": {"enabled": True}},
        "http": {"addr": layout.REGISTRY},
    }
    config.write_text(json.dumps(content))  # JSON is YAML
    return Program(
        name="registry",
        command=(binary, "serve", str(config)),
        environment={**environment, "OTEL_TRACES_EXPORTER": "none"},
        ready=lambda: answers(f"http://{layout.REGISTRY}/v2/"),
    )


def versitygw(binary: str, folders: Layout, environment: Mapping[str, str]) -> Program:
    """An S3 server, empty at each start, with versions and object locks."""
    objects, metadata, versions = (folders.run / "s3" / name for name in ("objects", "metadata", "versions"))
    for folder in (objects, metadata, versions):
        folder.mkdir(parents=True)
    account = ("--access", layout.S3_ACCESS_KEY, "--secret", layout.S3_SECRET_KEY, "--region", layout.S3_REGION)
    storage = ("posix", "--sidecar", str(metadata), "--versioning-dir", str(versions), str(objects))
    return Program(
        name="versitygw",
        command=(binary, "--port", f"{layout.NODE_ADDRESS}:{layout.S3_PORT}", *account, "--quiet", *storage),
        environment=environment,
        ready=lambda: _listens(layout.NODE_ADDRESS, layout.S3_PORT),
    )


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
