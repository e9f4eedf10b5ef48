"""The commands of docs/on-kubernetes.md, run as a reader would run them: section by section, in one shell each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from k8s.local.tools import built
from tests.cluster import Cluster
from tests.e2e.desk import Desk

PAGE = Path(__file__).parents[3] / "docs" / "on-kubernetes.md"
_SECTION = re.compile(r"^## (.+)$", flags=re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def read_page() -> dict[str, str]:
    """The commands of each section that has some."""
    _, *parts = _SECTION.split(PAGE.read_text(encoding="utf-8"))
    sections = {title: "".join(_BLOCK.findall(text)) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: commands for title, commands in sections.items() if commands}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Somebody who follows the page at a desk, with programs of the cluster's version on the path."""

    desk: Desk
    cluster: Cluster
    sections: dict[str, str] = field(default_factory=read_page)
    done: list[str] = field(default_factory=list)
    """Sections whose commands were run."""

    def follow(self, section: str) -> str:
        """Run a section's commands; what they print, to people and to programs."""
        self.done.append(section)
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.sections[section]],
            cwd=self.desk.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{section}: {answer.stdout}"
        return answer.stdout

    def _environment(self) -> dict[str, str]:
        programs = self.desk.folder / "programs"
        programs.mkdir(exist_ok=True)
        for name, binary in built("helm", "kubectl").items():
            if not (programs / name).exists():
                (programs / name).symlink_to(binary)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        found = {**self.desk.environment, **self.cluster.s3.environment(), "PATH": path}
        return found | {"KUBECONFIG": str(self.cluster.kubeconfig), "HELM_CACHE_HOME": str(programs / "cache")}
