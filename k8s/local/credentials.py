"""Keys, tokens and kubeconfig files: who may do what with a local cluster's API server."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

# Who speaks to the API server, and the groups that Kubernetes' own roles are bound to.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("tandem:coredns", ""),
}


def write_tokens(file: Path, *, node: str) -> dict[str, str]:
    """Write the API server's token file; return each user's token."""
    users = {**USERS, "kubelet": (f"system:node:{node}", "system:nodes")}
    tokens = {name: secrets.token_hex(16) for name in users}
    file.touch(mode=0o600)
    file.write_text("".join(f'{tokens[name]},{user},{name},"{group}"\n' for name, (user, group) in users.items()))
    return tokens


def write_key(file: Path) -> None:
    """A private key for the signatures on service accounts' tokens."""
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(file))


def write_kubelet_client(certificate: Path, key: Path) -> None:
    """What the API server shows to kubelets; kubelets trust this one certificate."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
    subject = ("-subj", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    usage = ("-days", "3650", "-addext", "extendedKeyUsage=clientAuth")
    _openssl("req", "-x509", *curve, *subject, *usage, "-out", str(certificate))


def write_kubeconfig(file: Path, *, server: str, ca: Path, token: str, namespace: str = "default") -> None:
    """A kubeconfig with one context, whole in itself so that it can be copied elsewhere."""
    import base64

    file.touch(mode=0o600)
    name = "tandem-local"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(ca.read_bytes()).decode(),
                },
            }
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    file.write_text(json.dumps(content, indent=2) + "\n")  # JSON is YAML


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
