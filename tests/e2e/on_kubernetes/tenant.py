"""A tenant's namespace as the tests look at it: Runs, what belongs to them, GPUs that are asked for, and the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandem.store import Store
from tandem.store.layout import RunPlace
from tests.cluster import Cluster

NAMESPACE = "vision"
PATIENCE_SECONDS = 600.0
"""Images of 6 GB may have to be pulled and unpacked first, on a machine that has other work."""


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A namespace that a controller serves, and its store."""

    cluster: Cluster
    store: Store

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints, in the namespace. Raises KubectlFailed."""
        return self.cluster.kubectl("-n", NAMESPACE, *arguments, given=given)

    def find(self, kind: str, selector: str = "") -> list[Any]:
        """Objects of a kind."""
        found: list[Any] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def status(self, run: str) -> Any:
        """A Run's status; empty before the controller has looked."""
        return json.loads(self.kubectl("get", "run", run, "-o", "json")).get("status") or {}

    def place(self, run: str) -> RunPlace:
        """Where a Run lies in the store."""
        return RunPlace(namespace=NAMESPACE, run_id=self.status(run)["runId"])

    def attempts(self, run: str, stage: str) -> list[Any]:
        """How each attempt of a stage ended, in order."""
        keys = [entry.key for entry in self.store.list(self.place(run).attempts(stage))]
        return [json.loads(self.store.get(key)) for key in sorted(keys) if key.endswith("/attempt.json")]

    def belongings(self, run: str) -> list[str]:
        """What of a Run there is in the cluster beside its own object."""
        mine = f"tandem.dev/run-id={self.place(run).run_id}"
        children = [one for kind in ("pytorchjobs", "jobs", "pods") for one in self.find(kind, mine)]
        services = [one for one in self.find("services") if one["metadata"]["name"].startswith(f"{run}-")]
        return [f"{one['kind']} {one['metadata']['name']}" for one in (*children, *services)]

    def gpus_in_use(self) -> int:
        """GPUs that pods which have not ended hold, or wait for."""
        return sum(
            int((container["resources"].get("requests") or {}).get("nvidia.com/gpu", 0))
            for pod in self.find("pods")
            if pod["status"]["phase"] not in ("Succeeded", "Failed")
            for container in pod["spec"]["containers"]
        )

    def wait_until(self, condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> float:
        """Look again and again, and return the seconds that it took; fails with all that the namespace says."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                said = self.kubectl("get", "runs,pytorchjobs,jobs,pods,events", "-o", "wide")
                log = self.kubectl("logs", "deployment/tandem-controller", "--tail=40")
                raise AssertionError(f"{seconds:.0f} s and not yet: {what}\n{said}\n{log}")
            time.sleep(0.2)
        return time.monotonic() - began
