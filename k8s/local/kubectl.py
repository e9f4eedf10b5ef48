"""kubectl of the cluster's own version."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from k8s.local import tools


class KubectlFailed(subprocess.CalledProcessError):
    """kubectl ended with a failure; says what kubectl said."""

    def __str__(self) -> str:
        return f"kubectl {' '.join(self.cmd[3:])}: {' '.join(self.stderr.split())}"


def kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    """What kubectl prints. Raises KubectlFailed."""
    command = [_binary(), "--kubeconfig", str(kubeconfig), *arguments]
    answer = subprocess.run(command, input=given, text=True, check=False, capture_output=True)
    if answer.returncode:
        raise KubectlFailed(answer.returncode, command, answer.stdout, answer.stderr)
    return answer.stdout


@cache
def _binary() -> str:
    return tools.built("kubectl")["kubectl"]
