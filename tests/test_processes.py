"""What a failing test leaves behind is found and ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.processes import end_processes, list_processes_of

START_A_CHILD_AND_END = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)"


def test_orphans_and_stopped_processes_of_a_folder_are_ended(tmp_path: Path) -> None:
    environment = {"TANDEM_WORK": str(tmp_path / "work")}
    stopped = subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE)
    stopped.send_signal(signal.SIGSTOP)
    parent = subprocess.Popen(
        [sys.executable, "-c", START_A_CHILD_AND_END], env=environment, stdin=stopped.stdin, start_new_session=True
    )
    parent.wait()
    assert len(list_processes_of(tmp_path)) == 2
    assert list_processes_of(tmp_path / "other") == []
    end_processes(tmp_path)
    assert stopped.wait() == -signal.SIGKILL
    assert list_processes_of(tmp_path) == []
