"""A Run that trains, recorded in a store, and attempts at it as a pod makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tandem.cli.run import record_run
from tandem.model.tiny import make_tiny_model
from tandem.outcome import LINE_MARK, Outcome, parse_outcome_line
from tandem.spec import load_run, sha256_hex
from tandem.stage.facts import Facts, to_environment
from tandem.store import Store, open_store
from tests.train.small import SETTINGS, Settings, merge, write_data


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A process that makes an attempt."""

    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> Outcome:
        """Wait for its end, and for its last line."""
        code = self.process.wait(timeout=300)
        lines = [line for line in self.log.read_text().splitlines() if line.startswith(LINE_MARK)]
        assert lines, self.log.read_text()
        outcome = parse_outcome_line(lines[-1])
        assert outcome is not None
        assert outcome.exit_code == code
        return outcome


@dataclass(frozen=True, kw_only=True)
class Training:
    """A recorded Run."""

    folder: Path
    file: Path
    facts: Facts
    store: Store

    @property
    def executions(self) -> Path:
        """Where the executions lie, in a store that is a folder."""
        return self.folder / "store" / self.facts.place.executions("train")

    def checkpoints(self, execution: str) -> list[str]:
        """The committed checkpoints of an execution, oldest first."""
        return sorted(path.parent.name for path in self.executions.glob(f"{execution}/checkpoints/*/manifest.json"))

    def start(self, execution: str, **environment: str) -> Pod:
        """An attempt, tied to nothing but what the environment says."""
        log = self.folder / f"{execution}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tandem", "stage", "train"],
                env={
                    **os.environ,
                    **to_environment(self.facts),
                    "OMP_NUM_THREADS": "1",
                    "POD_UID": execution,
                    "TANDEM_WORK": str(self.folder / f"work-{execution}"),
                    "TANDEM_CACHE": str(self.folder / "cache"),
                    **environment,
                },
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return Pod(process=process, log=log)


def record_training(folder: Path, changes: Settings | None = None, evals: list[Settings] | None = None) -> Training:
    """Write model, data and Run file below folder, and record the Run in folder/store."""
    make_tiny_model(folder / "base", seed=5)
    write_data(folder, samples=14)
    spec: dict[str, Any] = {"model": {"source": "base"}, "train": merge(SETTINGS, changes or {}), "seed": 3}
    file = folder / "run.yaml"
    run = {"apiVersion": "tandem.dev/v1alpha1", "kind": "Run", "metadata": {"name": "small"}, "spec": spec}
    if evals is not None:
        spec["evals"] = evals
    file.write_text(yaml.safe_dump(run))
    store = open_store((folder / "store").as_uri())
    place, body = record_run(store, load_run(file), again=False)
    facts = Facts(store_url=store.url, place=place, run_sha256=sha256_hex(body), stage="train", attempt=1)
    return Training(folder=folder, file=file, facts=facts, store=store)
