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
    """run, stage, torchrun, rank 0, rank 1, ..., or helper: what Python and torch start beside them."""
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
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if mark in environment:
            found.append(_describe(int(folder.name), dict(_split(entry) for entry in environment), command))
    return sorted(found, key=lambda process: (process.stage or "", process.role, process.pid))


def _describe(pid: int, environment: dict[str, str], command: bytes) -> Process:
    role = next((name for pattern, name in _ROLES if pattern.search(command)), "helper")
    execution = environment.get("TANDEM_EXECUTION")
    return Process(
        pid=pid,
        role=f"rank {environment.get('RANK', '?')}" if role == "rank" else role,
        stage=environment.get("STAGE") if execution else None,
        execution=execution,
    )


def _split(entry: bytes) -> tuple[str, str]:
    name, _, value = entry.decode(errors="replace").partition("=")
    return name, value
