"""What the figures of a benchmark were measured on."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime

import torch

PEAK_FLOPS = 989e12
"""Of one H200, dense bfloat16, by its data sheet."""


def describe_machine() -> dict[str, str | None]:
    """What the figures were measured on."""
    import peft
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "driver": _read_driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "command": " ".join(["python", *sys.argv]),
    }


def _read_driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError):
        return None
