"""What a cluster could leave on a machine: compare before it came up and after it was taken down."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from k8s.local import machine
from k8s.local.layout import Layout
from k8s.local.processes import started_at


def traces(folders: Layout) -> frozenset[str]:
    """Processes elsewhere than in our network, mounts, devices, addresses, routes, rules, groups, kernel settings."""
    places = (str(folders.folder), "/run/netns", "/run/containerd", *machine.MOUNTPOINTS)
    found = [
        *_processes(),
        *(f"mount {line}" for line in _mounts() if any(place in line for place in places)),
        *(f"network device {device.name}" for device in Path("/sys/class/net").iterdir()),
        *_lines("ip", "-oneline", "address"),
        *_lines("ip", "route"),
        *(f"IPv4 {rule}" for rule in _rules("iptables-save")),
        *(f"IPv6 {rule}" for rule in _rules("ip6tables-save")),
        *(f"control group {group}" for group in machine.cgroups()),
        *(f"kernel setting {name} {machine.setting(name)}" for name in machine.KUBELET_SETS),
        *(f"folder {name}" for name in places[1:] if Path(name).exists()),
    ]
    return frozenset(found)


def _processes() -> Iterator[str]:
    ours = Path("/proc/self/ns/net").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "ns" / "net").readlink() != ours:
                pid = int(process.name)
                yield f"process {pid} {started_at(pid)} {(process / 'comm').read_text().strip()}"


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _rules(program: str) -> list[str]:
    # A table that holds nothing says as much as none; reading rules may have made it.
    return [line for line in _lines(program) if line.startswith("-") or (line[0] == ":" and " - " in line)]


def _lines(*command: str) -> list[str]:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line for line in output.splitlines() if line.strip()]
