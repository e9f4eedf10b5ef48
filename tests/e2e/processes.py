"""The processes of a desk's commands, as the kernel lists them: which there are, and what each is."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.desk import Desk

_ROLES = (
    (re.compile(rb"\0tandem\0run\0|/tandem\0run\0"), "run"),
    (re.compile(rb"\0tandem\0stage\0"), "stage"),
    (re.compile(rb"\0tandem\.stage\.torchrun\0"), "torchrun"),
    (re.compile(rb"\0tandem\.train\.rank\0"), "rank"),
)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of a Run, at one moment."""

    pid: int
    role: str
    """run, stage, torchrun, rank 0, worker of rank 0, ..., or helper: what Python and torch start beside them."""
    stage: str | None
    """Of the attempt that it belongs to; None for `tandem run` itself."""
    execution: str | None

    def kill(self) -> None:
        """End it as the kernel ends what takes too much memory."""
        os.kill(self.pid, signal.SIGKILL)


def list_processes(desk: Desk) -> list[Process]:
    """All processes of the desk's commands, found by the cache folder that is theirs alone; the dead are not listed."""
    mark = f"XDG_CACHE_HOME={desk.environment['XDG_CACHE_HOME']}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            role = _role_of(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
        if mark in environment:
            found.append(_describe(int(folder.name), dict(_split(entry) for entry in environment), role))
    return sorted(found, key=lambda process: (process.stage or "", process.role, process.pid))


def _role_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    role = next((name for pattern, name in _ROLES if pattern.search(command)), "helper")
    if role != "rank":
        return role
    # A worker is a fork of its rank, and looks like it.
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return "worker of rank" if _role_of(parent).endswith("rank") else role


def _describe(pid: int, environment: dict[str, str], role: str) -> Process:
    execution = environment.get("TANDEM_EXECUTION")
    return Process(
        pid=pid,
        role=f"{role} {environment.get('RANK', '?')}" if role.endswith("rank") else role,
        stage=environment.get("STAGE") if execution else None,
        execution=execution,
    )


def _split(entry: bytes) -> tuple[str, str]:
    name, _, value = entry.decode(errors="replace").partition("=")
    return name, value
