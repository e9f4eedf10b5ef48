"""`tandem demo`."""

from __future__ import annotations

import sys
from pathlib import Path


def make_demo(folder: Path, seed: int) -> None:
    """Make the demo's inputs, and say what to run next."""
    from tandem.demo.prepare import prepare_demo

    prepare_demo(folder, seed=seed)
    sys.stderr.write(f"The demo's inputs are in {folder}. Next: tandem run jobs/demo.yaml\n")
