"""The cluster's one node: containerd with runc, kubelet and kube-proxy."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from k8s.local import layout
from k8s.local.control_plane import NODE, ControlPlane, answers
from k8s.local.faults import Fault
from k8s.local.kubectl import KubectlFailed
from k8s.local.layout import Layout
from k8s.local.machine import CGROUP
from k8s.local.processes import Program

TOOLS = ("kubelet", "kube-proxy")
SOCKET = "/run/containerd/containerd.sock"
NAMESPACE = "k8s.io"
"""containerd's own word for whose containers these are: kubelet's."""

CONTAINERD = """
version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"
"""

REGISTRY = """
server = "http://{registry}"

[host."http://{registry}"]
capabilities = ["pull", "resolve"]
"""


def containerd(folders: Layout, environment: Mapping[str, str]) -> Program:
    """The container runtime, with the images that an earlier start has pulled."""
    configuration = folders.run / "containerd"
    cni, registries = configuration / "cni", configuration / "registries"
    (registries / layout.REGISTRY).mkdir(parents=True)
    (registries / layout.REGISTRY / "hosts.toml").write_text(REGISTRY.format(registry=layout.REGISTRY))
    cni.mkdir()
    (cni / "pods.conflist").write_text(json.dumps(_cni()))
    config = configuration / "config.toml"
    config.write_text(
        CONTAINERD.format(
            root=folders.containerd, socket=SOCKET, sandbox=layout.SMALL_IMAGE, cni=cni, registries=registries
        )
    )
    return Program(
        name="containerd",
        command=("containerd", "--config", str(config), "--log-level", "warn"),
        environment=environment,
        ready=lambda: _ctr("version").returncode == 0,
    )


def import_images(archives: Iterable[Path]) -> None:
    """Give containerd the images of archives under the names that they carry."""
    for archive in archives:
        answer = _ctr("--namespace", NAMESPACE, "images", "import", str(archive))
        if answer.returncode:
            raise Fault(f"containerd does not take {archive}: {answer.stderr.strip()}")


def remove_containers() -> None:
    """Remove every container, so that the next start finds images alone. Kubelet must have been stopped."""
    names = _ctr("--namespace", NAMESPACE, "containers", "ls", "-q").stdout.split()
    for name in names:
        _ctr("--namespace", NAMESPACE, "tasks", "rm", "--force", name)
    if names:
        answer = _ctr("--namespace", NAMESPACE, "containers", "rm", *names)
        if answer.returncode:
            raise Fault(f"containerd keeps containers: {answer.stderr.strip()}")


def kubelet(binary: str, folders: Layout, plane: ControlPlane, environment: Mapping[str, str]) -> Program:
    """What runs the pods that are given to the node; ready when the node is."""
    config = folders.run / "kubelet.json"
    config.write_text(json.dumps(_kubelet(folders.run / "keys" / "kubelet-client.crt"), indent=2))
    node = ("get", "node", NODE, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')

    def ready() -> bool:
        try:
            return plane.run_kubectl(*node) == "True"
        except KubectlFailed:  # it has not registered yet
            return False

    return Program(
        name="kubelet",
        command=(
            binary,
            f"--config={config}",
            f"--kubeconfig={plane.kubeconfig_of('kubelet')}",
            f"--hostname-override={NODE}",
            f"--node-ip={layout.NODE_ADDRESS}",
        ),
        environment=environment,
        ready=ready,
    )


def kube_proxy(binary: str, plane: ControlPlane, environment: Mapping[str, str]) -> Program:
    """What leads the addresses of services to pods."""
    return Program(
        name="kube-proxy",
        command=(
            binary,
            f"--kubeconfig={plane.kubeconfig_of('kube-proxy')}",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={layout.PODS}",
            "--proxy-mode=iptables",
            "--iptables-localhost-nodeports=false",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
        ),
        environment=environment,
        ready=lambda: answers("http://127.0.0.1:10256/healthz"),
    )


def _kubelet(api_server: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(api_server)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "clusterDNS": [layout.NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": True,
        # The disk is the machine's own: a cluster for tests neither judges it nor removes images.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # Otherwise an image that was imported has to be pulled again once the same one was pulled under another name.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "serializeImagePulls": False,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "syncFrequency": "1s",  # how soon a pod sees a Secret that has changed
    }


def _cni() -> dict[str, object]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": layout.PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{**bridge, "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _ctr(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ctr", "--address", SOCKET, *arguments], env=os.environ, capture_output=True, text=True, check=False
    )
