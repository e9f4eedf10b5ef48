"""etcd, kube-apiserver and kube-controller-manager: the API without a node, up in seconds, as any user."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8s.local import credentials, tools
from k8s.local.kubectl import kubectl
from k8s.local.processes import Program, Programs

TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = "tandem-local"
SERVICES = "10.96.0.0/24"
PARTS = ("kube-controller-manager", "kube-apiserver", "etcd")
"""In the order in which they are stopped."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts listen."""

    host: str
    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """An API server that answers."""

    folder: Path
    server: str
    tokens: dict[str, str]

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def ca(self) -> Path:
        """The API server's certificate, which it signed itself."""
        return self.folder / "certificates" / "apiserver.crt"

    def kubeconfig_of(self, user: str) -> Path:
        """The kubeconfig of one of the cluster's own parts."""
        file = self.folder / f"{user}.kubeconfig"
        credentials.write_kubeconfig(file, server=self.server, ca=self.ca, token=self.tokens[user])
        return file

    def run_kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints as the administrator. Raises KubectlFailed."""
        return kubectl(self.kubeconfig, *arguments, given=given)


def start(programs: Programs, addresses: Addresses) -> ControlPlane:
    """Start all three and return when they work; state of an earlier start in the folder is removed."""
    plane = start_api_server(programs, addresses)
    manager = controller_manager(plane, addresses)
    programs.start(manager)
    programs.wait_until_ready([manager])
    return plane


def start_api_server(programs: Programs, addresses: Addresses, *, kubelet_client: bool = False) -> ControlPlane:
    """Start etcd and the API server and return when they work; without controllers, nothing comes of what is made."""
    folder = programs.folder
    for name in ("etcd", "certificates"):
        shutil.rmtree(folder / name, ignore_errors=True)
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    binaries = tools.built(*TOOLS)
    environment = _environment(folder)

    etcd_url = f"http://127.0.0.1:{addresses.etcd}"
    etcd = Program(
        name="etcd",
        command=_etcd(binaries["etcd"], folder, addresses),
        environment=environment,
        ready=lambda: answers(f"{etcd_url}/health"),
    )
    programs.start(etcd)
    tokens = credentials.write_tokens(keys / "tokens.csv", node=NODE)
    credentials.write_key(keys / "service-accounts.key")
    credentials.write_kubelet_client(keys / "kubelet-client.crt", keys / "kubelet-client.key")
    programs.wait_until_ready([etcd])

    plane = ControlPlane(
        folder=folder,
        server=f"https://{addresses.host}:{addresses.apiserver}",
        tokens=tokens,
    )
    apiserver = Program(
        name="kube-apiserver",
        command=_apiserver(binaries["kube-apiserver"], folder, addresses, etcd_url, kubelet_client=kubelet_client),
        environment=environment,
        ready=lambda: plane.ca.exists() and answers(f"{plane.server}/readyz", ca=plane.ca, token=tokens["admin"]),
    )
    programs.start(apiserver)
    programs.wait_until_ready([apiserver])
    credentials.write_kubeconfig(plane.kubeconfig, server=plane.server, ca=plane.ca, token=tokens["admin"])
    return plane


def controller_manager(plane: ControlPlane, addresses: Addresses) -> Program:
    """What makes pods of jobs, endpoints of services, and so on; ready when each namespace has its service account."""
    binary = tools.built("kube-controller-manager")["kube-controller-manager"]
    account = f"{plane.server}/api/v1/namespaces/default/serviceaccounts/default"
    return Program(
        name="kube-controller-manager",
        command=_controller_manager(binary, plane.folder, addresses, plane),
        environment=_environment(plane.folder),
        ready=lambda: answers(account, ca=plane.ca, token=plane.tokens["admin"]),
    )


def stop(programs: Programs) -> None:
    """Stop what start started, in part or in whole."""
    for name in PARTS:
        programs.stop(name)


@contextmanager
def running(folder: Path, *, tied: bool = True) -> Iterator[ControlPlane]:
    """A control plane on free ports of loopback, for as long as the context lasts."""
    programs = Programs(folder=folder, tied=tied)
    try:
        yield start(programs, free_addresses())
    finally:
        stop(programs)


def free_addresses() -> Addresses:
    """Ports of loopback on which nothing listens now."""
    with socket.socket() as a, socket.socket() as b, socket.socket() as c, socket.socket() as d:
        ports = []
        for listener in (a, b, c, d):
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
    return Addresses(
        host="127.0.0.1", etcd=ports[0], etcd_peer=ports[1], apiserver=ports[2], controller_manager=ports[3]
    )


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}


def _etcd(binary: str, folder: Path, addresses: Addresses) -> tuple[str, ...]:
    client, peer = f"http://127.0.0.1:{addresses.etcd}", f"http://127.0.0.1:{addresses.etcd_peer}"
    return (
        binary,
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # nothing here outlives the machine
        "--log-level=warn",
    )


def _apiserver(
    binary: str, folder: Path, addresses: Addresses, etcd_url: str, *, kubelet_client: bool
) -> tuple[str, ...]:
    keys = folder / "keys"
    loopback = addresses.host == "127.0.0.1"
    return (
        binary,
        f"--etcd-servers={etcd_url}",
        f"--bind-address={addresses.host}",
        f"--secure-port={addresses.apiserver}",
        f"--advertise-address={addresses.host}",
        # Endpoints of the service kubernetes may not be of loopback; without a node, nobody asks for them.
        *(["--endpoint-reconciler-type=none"] if loopback else []),
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={keys / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        f"--service-cluster-ip-range={SERVICES}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
        f"--service-account-key-file={keys / 'service-accounts.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        *(
            [
                f"--kubelet-client-certificate={keys / 'kubelet-client.crt'}",
                f"--kubelet-client-key={keys / 'kubelet-client.key'}",
            ]
            if kubelet_client
            else []
        ),
    )


def _controller_manager(binary: str, folder: Path, addresses: Addresses, plane: ControlPlane) -> tuple[str, ...]:
    kubeconfig = plane.kubeconfig_of("controller-manager")
    return (
        binary,
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-skip-lookup",
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.controller_manager}",
        f"--cert-dir={folder / 'certificates' / 'controller-manager'}",
        f"--root-ca-file={plane.ca}",
        f"--service-account-private-key-file={folder / 'keys' / 'service-accounts.key'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
    )


def answers(url: str, *, ca: Path | None = None, token: str = "") -> bool:
    """Whether a GET is answered with 200, without any proxy."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
    )
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:  # refused, reset, not ready (HTTPError is one too)
        return False
