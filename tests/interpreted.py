"""Running the tests of Triton kernels on a machine without a GPU: in a process that has Triton as an interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def count_passed(file: Path) -> int:
    """How many tests of the file pass, its kernels run on CPU tensors; the others' report is the failure."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^(\d+) passed in", ended.stdout, re.MULTILINE)
    assert found is not None, ended.stdout
    return int(found[1])
