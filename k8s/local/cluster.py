"""The full cluster, seen from this machine: brought up, asked, and taken down without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k8s.local import control_plane, images, layout, machine, node, services, tools, training_operator
from k8s.local.faults import Fault
from k8s.local.kubectl import kubectl
from k8s.local.layout import Layout
from k8s.local.processes import started_at

LOCK = Path("/run/lock/tandem-local-cluster")
RECORD = Path("/run/tandem-local-cluster.json")
"""The machine's one cluster: its folder, the pid of its first process as seen from here, when that was started."""
STOP_SECONDS = 30.0
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
TOOLS = (*control_plane.TOOLS, *node.TOOLS, *services.TOOLS, training_operator.TOOL)


@contextmanager
def locked(*, wait: bool) -> Iterator[None]:
    """Be the only one who brings the machine's cluster up or down, or who uses it in tests."""
    machine.require_root()
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise Fault(f"process {file.read().strip()} uses the local cluster; wait until it has ended") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_up(folders: Layout) -> bool:
    """Whether the cluster's first process runs and brought everything up."""
    return first_process(folders) is not None and folders.kubeconfig.exists() and (folders.run / "ready").exists()


def up(folders: Layout) -> None:
    """Bring it up; when it returns, everything answers. Call it with the lock."""
    machine.install_packages()
    operator = tools.built(*TOOLS)[training_operator.TOOL]
    images.archives(operator)
    down(folders)
    try:
        _start(folders)
    except BaseException:
        down(folders)
        raise


def down(folders: Layout) -> None:
    """Take down whatever is there of it; logs, pushed and pulled images stay. Call it with the lock."""
    running = _running()
    if running and running["folder"] != str(folders.folder):
        raise Fault(f"the machine's local cluster is another one, kept in {running['folder']}: take that down first")
    pid = first_process(folders)
    if pid is not None:
        _send(pid, signal.SIGTERM)
        if not _comes_true(lambda: first_process(folders) is None):
            _send(pid, signal.SIGKILL)
            _wait_until(lambda: first_process(folders) is None, "end")
    RECORD.unlink(missing_ok=True)
    (folders.run / "ready").unlink(missing_ok=True)
    # The device goes with the other end of it, a moment after the last process.
    _wait_until(lambda: not Path("/sys/class/net", layout.INTERFACE).exists(), "let its network device go")
    machine.remove_cgroups()
    machine.restore_settings(folders.settings)
    machine.remove_mountpoints(folders.mountpoints)


def program_pid(folders: Layout, name: str) -> int:
    """The pid, seen from here, of a program of the cluster: to stop it, say, in a test of what that does."""
    inner = (folders.run / "pids" / name).read_text().split()[0]
    namespace = Path(f"/proc/{first_process(folders)}/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (process / "status").read_text().splitlines()
            numbers = next(line.split()[1:] for line in status if line.startswith("NSpid:"))
            if numbers[-1] == inner and (process / "ns" / "pid").readlink() == namespace:
                return int(process.name)
    raise Fault(f"{name} does not run in the local cluster")


def set_gpus(folders: Layout, count: int) -> None:
    """Have the node say that it has GPUs; pods that ask for them are given to it, and find none."""
    amount = {"nvidia.com/gpu": str(count) if count else None}
    patch = {"status": {"capacity": amount, "allocatable": amount}}
    arguments = ("patch", "node", control_plane.NODE, "--subresource=status", "--type=merge", "-p", json.dumps(patch))
    kubectl(folders.kubeconfig, *arguments)


def _start(folders: Layout) -> None:
    shutil.rmtree(folders.run, ignore_errors=True)
    folders.run.mkdir(parents=True, mode=0o700)
    machine.note_settings(folders.settings)
    machine.make_mountpoints(folders.mountpoints)
    machine.make_cgroups()
    with (folders.run / "first-process.log").open("wb") as log:
        process = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "k8s.local.inside", str(folders.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            cwd=tools.HERE.parent.parent,
        )
    _wait_until(lambda: _child(process.pid) is not None or process.poll() is not None, "start")
    first = _child(process.pid)
    RECORD.write_text(json.dumps({"folder": str(folders.folder), "pid": first, "since": started_at(first or 0)}) + "\n")
    assert process.stdin is not None
    assert process.stdout is not None
    answer = ""
    with process.stdout, contextlib.suppress(BrokenPipeError):  # it ended at once
        _connect(process.pid)
        process.stdin.write("go\n")
        process.stdin.close()
        answer = process.stdout.readline().strip()
    if answer != "ready":
        words = (folders.run / "first-process.log").read_text().splitlines() or ["the local cluster ended at once"]
        raise Fault(answer.removeprefix("fault: ") or words[-1])
    (folders.run / "ready").touch()


def _connect(pid: int) -> None:
    """Lay a cable from this machine into the namespace of a process."""
    name = layout.INTERFACE
    for command in (
        f"ip link add {name} type veth peer name eth0 netns {pid}",
        f"ip address add {layout.HOST}/{layout.PREFIX} dev {name}",
        f"ip link set {name} up",
    ):
        answer = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if answer.returncode:
            raise Fault(f"{command}: {answer.stderr.strip()}")


def first_process(folders: Layout) -> int | None:
    """The pid, seen from here, of the process without which the kernel ends the whole cluster."""
    record = _running()
    return int(record["pid"]) if record and record["folder"] == str(folders.folder) else None


def _running() -> dict[str, Any] | None:
    """The record of the machine's cluster, whosever it is, if it runs."""
    try:
        record: dict[str, Any] = json.loads(RECORD.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if record["pid"] and started_at(record["pid"]) == record["since"] else None


def _child(parent: int) -> int | None:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                return int(process.name)
    return None


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_until(done: Callable[[], bool], what: str) -> None:
    if not _comes_true(done):
        raise Fault(f"the local cluster does not {what} within {STOP_SECONDS:.0f} s")


def _comes_true(done: Callable[[], bool]) -> bool:
    ended = time.monotonic() + STOP_SECONDS
    while not done():
        if time.monotonic() > ended:
            return False
        time.sleep(0.05)
    return True
