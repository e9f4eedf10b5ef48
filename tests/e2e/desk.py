"""A user's desk: a folder, an environment with caches of its own, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where a user works; commands start in `folder`."""

    folder: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command here."""
        own = {"XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return {name: value for name, value in os.environ.items() if name != "TANDEM_STORE"} | own | self.extra

    def tandem(self, *arguments: str, seconds: float = 1000) -> Answer:
        """Run a command to its end; a traceback is never an answer."""
        done = subprocess.run(
            [sys.executable, "-m", "tandem", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    def describe(self, run: str) -> Any:
        """`tandem show`, as JSON."""
        return json.loads(self.tandem("show", run, "-o", "json").out)
