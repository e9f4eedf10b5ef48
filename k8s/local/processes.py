"""Long-running programs of a cluster: each in its own session, with a log file and a pid file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from k8s.local.faults import Fault

STOP_SECONDS = 10.0
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program to run, and how to see that it works."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    """Asks the program itself; called until it says True."""


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Starts programs with what they say and who they are kept below one folder, in logs/ and pids/."""

    folder: Path
    tied: bool
    """Whether the kernel kills the programs when the process that started them ends."""

    def start(self, program: Program) -> None:
        """Start it; wait_until_ready sees whether it works."""
        tie = ("setpriv", "--pdeathsig", "KILL") if self.tied else ()
        for folder in (self._log(program.name).parent, self._pid(program.name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        with self._log(program.name).open("ab") as log:
            process = subprocess.Popen(
                [*tie, *program.command],
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
        self._pid(program.name).write_text(f"{process.pid} {started_at(process.pid)}\n")

    def wait_until_ready(self, programs: Iterable[Program], seconds: float = 120.0) -> None:
        """Return when all of them answer; a program that ended, or time that ran out, is a Fault."""
        for program in programs:
            ended = time.monotonic() + seconds
            while not program.ready():
                if not self.running(program.name):
                    raise Fault(f"{program.name} ended at once. {self._last_words(program.name)}")
                if time.monotonic() > ended:
                    raise Fault(
                        f"{program.name} does not answer after {seconds:.0f} s. {self._last_words(program.name)}"
                    )
                time.sleep(PAUSE_SECONDS)

    def running(self, name: str) -> bool:
        """Whether the program that was started under this name runs still."""
        return self._find(name) is not None

    def stop(self, name: str) -> None:
        """End it with all its session: SIGTERM, then SIGKILL. Harmless if it does not run."""
        pid = self._find(name)
        if pid is not None:
            _send(pid, signal.SIGTERM)
            ended = time.monotonic() + STOP_SECONDS
            while self._find(name) is not None and time.monotonic() < ended:
                time.sleep(PAUSE_SECONDS)
            _send(pid, signal.SIGKILL)
            while self._find(name) is not None:
                time.sleep(PAUSE_SECONDS)
        self._pid(name).unlink(missing_ok=True)

    def _find(self, name: str) -> int | None:
        try:
            pid, since = self._pid(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        _reap(int(pid))
        return int(pid) if started_at(int(pid)) == since else None

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _pid(self, name: str) -> Path:
        return self.folder / "pids" / name

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines() or ["(it is empty)"]
        return f"Its log, {self._log(name)}, ends with: {lines[-1]}"


def started_at(pid: int) -> str:
    """When it was started: tells a process from a later one of the same number; empty for one that does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # not ours: another process started it
        os.waitpid(pid, os.WNOHANG)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
