"""The GPUs of this machine, asked of nvidia-smi so that torch need not be loaded."""

from __future__ import annotations

import subprocess


def list_gpu_memory() -> list[int]:
    """Bytes of each GPU's memory; empty where there is none, or no driver that answers."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()]
