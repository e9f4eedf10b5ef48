"""torchrun as the stage starts it: what its ranks say explains its end, and not its own stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.stage.torchrun import limit_shutdown

TOLD = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nprint('up', flush=True)\n"


@pytest.mark.parametrize(
    ("body", "said"), [(f"{TOLD}time.sleep(300)\n", "Received 15"), ("raise SystemExit(65)", "exitcode: 65")]
)
def test_told_to_stop_or_after_a_rank_that_failed_it_ends_without_a_stack(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "one_rank.py").write_text(body)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tandem.stage.torchrun", str(os.getpid()), "300"),
            *("--standalone", "--nproc-per-node", "1", "-m", "one_rank"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "up\n":
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    assert said in "".join(lines)
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize(
    ("known", "arguments"),
    [
        ("  --max-restarts N\n  --shutdown-timeout SECONDS\n", ["--shutdown-timeout", "300"]),
        ("  --max-restarts N\n", []),  # torch 2.11, whose torchrun refuses the option
    ],
)
def test_a_limit_is_asked_of_those_torchruns_that_know_one(known: str, arguments: list[str]) -> None:
    assert limit_shutdown("300", known) == arguments


def test_the_torchrun_that_is_shipped_knows_the_limit() -> None:
    from torch.distributed.run import get_args_parser

    assert limit_shutdown("300", get_args_parser().format_help())
