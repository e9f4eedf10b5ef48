"""What a cluster needs of this machine, and what it changes there: Debian packages, kernel settings, control groups."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from k8s.local.faults import Fault

PACKAGES = {
    # what tells that a package is there: the package
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
    "openssl": "openssl",
    "setpriv": "util-linux",
}
CGROUP = "tandem-local"
KUBELET_SETS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
)
"""Kernel settings without a namespace that kubelet changes."""
MOUNTPOINTS = ("/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
"""Folders whose names are written into the programs; the cluster mounts its own there, which nobody else sees."""
NO_SERVICES = Path("/usr/sbin/policy-rc.d")
"""Debian's packages ask it whether they may start services."""
PACKAGES_LOCK = Path("/run/lock/tandem-packages")
SECONDS = 20.0


def require_root() -> None:
    """A node mounts and makes network devices; a control plane alone does not."""
    if os.geteuid() != 0:
        raise Fault(
            "a node needs root: run it as root, or run tests against your own cluster with KUBECONFIG "
            "and TANDEM_E2E_REGISTRY, or ask for --control-plane alone"
        )


def install_packages() -> None:
    """Have apt-get install what is missing; start no service of it. One process of this machine at a time does it."""
    missing = _missing()
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise Fault(
            f"this machine lacks {', '.join(missing)}: let root on Debian or Ubuntu do this, which installs them, or "
            "install them by hand"
        )
    PACKAGES_LOCK.parent.mkdir(exist_ok=True)
    with PACKAGES_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing := _missing():  # nobody has done it meanwhile
            _install(missing)


def _missing() -> list[str]:
    return sorted({package for tell, package in PACKAGES.items() if not _found(tell)})


def _install(packages: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    refuse = not NO_SERVICES.exists()
    if refuse:
        NO_SERVICES.write_text("#!/bin/sh\nexit 101\n")
        NO_SERVICES.chmod(0o755)
    try:
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            answer = subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
            if answer.returncode:
                raise Fault(f"apt-get {' '.join(command)} ended with exit code {answer.returncode}; it says why above")
    finally:
        if refuse:
            NO_SERVICES.unlink()


def _found(tell: str) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return Path(tell).exists() if tell.startswith("/") else shutil.which(tell, path=path) is not None


def note_settings(file: Path) -> None:
    """Write down the kernel settings that kubelet changes, unless an earlier start has."""
    if not file.exists():
        file.write_text(json.dumps({name: setting(name) for name in KUBELET_SETS}) + "\n")


def restore_settings(file: Path) -> None:
    """Set them again as note_settings found them."""
    if not file.exists():
        return
    for name, value in json.loads(file.read_text()).items():
        if setting(name) != value:
            Path("/proc/sys", name).write_text(value)
    file.unlink()


def setting(name: str) -> str:
    """The value of a kernel setting."""
    return Path("/proc/sys", name).read_text().strip()


def make_cgroups() -> None:
    """A group of our own in every hierarchy, below which kubelet makes the pods'."""
    for hierarchy in _hierarchies():
        for controller in ("cpuset", "cpu", "io", "memory", "hugetlb", "pids"):  # version 2: a group has what is given
            with contextlib.suppress(OSError):  # not there, or version 1
                (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: a group without them takes no process
            if (group / name).exists() and not (group / name).read_text().strip():
                (group / name).write_text((hierarchy / name).read_text())


def remove_cgroups() -> None:
    """Remove our group and all below it; their processes must have been killed."""
    ended = time.monotonic() + SECONDS
    while left := [group for group in cgroups() if not _removed(group)]:
        if time.monotonic() > ended:
            raise Fault(f"control groups are still in use: {', '.join(map(str, left))}")
        time.sleep(0.05)


def _removed(group: Path) -> bool:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # busy while a process in it is still dying
            Path(folder).rmdir()
    return not group.exists()


def cgroups() -> list[Path]:
    """Our group in each hierarchy where it exists."""
    return [hierarchy / CGROUP for hierarchy in _hierarchies() if (hierarchy / CGROUP).exists()]


def _hierarchies() -> list[Path]:
    lines = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] in {"cgroup", "cgroup2"}]


def make_mountpoints(file: Path) -> None:
    """Make what is missing of MOUNTPOINTS, and write down what it was."""
    missing = [name for name in MOUNTPOINTS if not Path(name).exists()]
    if missing:
        file.write_text(json.dumps(missing) + "\n")
        for name in missing:
            Path(name).mkdir(parents=True)


def remove_mountpoints(file: Path) -> None:
    """Remove what make_mountpoints made."""
    if file.exists():
        for name in json.loads(file.read_text()):
            with contextlib.suppress(OSError):  # somebody else uses it now
                Path(name).rmdir()
        file.unlink()
