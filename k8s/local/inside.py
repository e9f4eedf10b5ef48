"""The cluster's first process, in namespaces of its own: when it ends, the kernel ends and undoes all the rest.

Programs, mounts, network devices and packet filter rules of the cluster exist in these namespaces alone. The process
that started this one (k8s.local.cluster) says on standard input that the network device is there, and reads `ready` or
a fault from standard output. SIGTERM stops the cluster in order.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from k8s.local import control_plane, images, layout, node, services, tools, training_operator
from k8s.local.faults import Fault
from k8s.local.kubectl import KubectlFailed
from k8s.local.layout import Layout
from k8s.local.machine import MOUNTPOINTS
from k8s.local.processes import Programs


def main(folder: str) -> None:
    """Bring the cluster up, and stay until SIGTERM."""
    folders = Layout(folder=Path(folder))
    programs = Programs(folder=folders.run, tied=False)
    signal.signal(signal.SIGTERM, _leave)
    try:
        if sys.stdin.readline() != "go\n":
            raise Fault("the process that brings the cluster up has gone")
        _mount(folders)
        _connect()
        _start(folders, programs)
    except (Fault, KubectlFailed) as fault:
        _say(f"fault: {fault}")
        raise SystemExit(1) from fault
    except subprocess.CalledProcessError as failed:
        _say(f"fault: {' '.join(map(str, failed.cmd))}: {(failed.stderr or '').strip()}")
        raise SystemExit(1) from failed
    _say("ready")
    sys.stdout.close()
    try:
        _reap()
    finally:
        _stop(folders, programs)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _say(line: str) -> None:
    sys.stdout.write(" ".join(line.split()) + "\n")
    sys.stdout.flush()


def _mount(folders: Layout) -> None:
    _run("mount", "--make-rshared", "/")  # shared with pods, not with the machine: unshare parted that
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for target in MOUNTPOINTS:
        source = folders.run / target.strip("/").replace("/", "-")
        source.mkdir(parents=True)
        _run("mount", "--bind", str(source), target)


def _connect() -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{layout.NODE_ADDRESS}/{layout.PREFIX}", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    # Addresses of services are rewritten on their way to a device; all others are unreachable, and at once.
    _run("ip", "route", "add", control_plane.SERVICES, "dev", "eth0")
    _run("ip", "route", "add", "unreachable", "default")
    for name in ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables"):
        setting = Path("/proc/sys/net") / name
        if setting.exists():
            setting.write_text("1")


def _start(folders: Layout, programs: Programs) -> None:
    binaries = tools.built(*node.TOOLS, *services.TOOLS, training_operator.TOOL)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    environment = {"PATH": path, "HOME": str(folders.run)}

    clean = folders.containerd / "clean"
    if not clean.exists():  # whatever it holds was left by a cluster that did not stop in order
        shutil.rmtree(folders.containerd, ignore_errors=True)
    clean.unlink(missing_ok=True)
    containerd = node.containerd(folders, environment)
    registry = services.registry(binaries["registry"], folders, environment)
    s3 = services.versitygw(binaries["versitygw"], folders, environment)
    for program in (containerd, registry, s3):
        programs.start(program)

    plane = control_plane.start_api_server(programs, layout.ADDRESSES, kubelet_client=True)
    controllers = control_plane.controller_manager(plane, layout.ADDRESSES)
    scheduler = services.scheduler(binaries["kube-scheduler"], plane, environment)
    proxy = node.kube_proxy(binaries["kube-proxy"], plane, environment)
    dns = services.coredns(binaries["coredns"], plane, environment)
    for program in (controllers, scheduler, proxy, dns):
        programs.start(program)
    programs.wait_until_ready([containerd])
    node.import_images(images.archives(binaries[training_operator.TOOL]))
    kubelet = node.kubelet(binaries["kubelet"], folders, plane, environment)
    programs.start(kubelet)
    training_operator.install(plane)
    programs.wait_until_ready([registry, s3, controllers, scheduler, proxy, dns, kubelet])
    training_operator.wait_until_ready(plane)


def _reap() -> None:
    """Bury the children of processes that ended, as the first process must."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            raise SystemExit(1) from None


def _stop(folders: Layout, programs: Programs) -> None:
    programs.stop("kubelet")
    node.remove_containers()
    programs.stop("containerd")
    (folders.containerd / "clean").touch()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    main(sys.argv[1])
