"""The demo's Run in a cluster that is not kind to it: three faults, a pause, and what was seen meanwhile."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from k8s.local import cluster as local
from k8s.local import layout
from tandem.train.checkpoints import find_complete
from tests.e2e.on_kubernetes.page import Reader
from tests.e2e.on_kubernetes.tenant import Tenant
from tests.servers import Broken, address_towards, proxy_running

CONTROLLER = "deployment/tandem-controller"
OUTAGE_SECONDS = 30.0
_CONNECTED = ("01", "08")
"""ESTABLISHED, and CLOSE_WAIT for clients that have given up."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What was seen."""

    checked: str
    """What `tandem check --cluster` said before anything was submitted."""
    submitted: str
    """What was printed when the Run was submitted."""
    results: str
    """What was printed of its results."""
    job_before: str
    """The training's job, made by a controller that was killed before it could note it: its uid."""
    job_after: str
    """The same name's, once the next controller had noted an attempt."""
    jobs_of_training: int
    seconds_to_free_gpus: float
    left_while_suspended: list[str]
    requests_that_met_the_outage: int
    """Connections whose request the stopped store had not read when it went on."""


def tell_story(reader: Reader, tenant: Tenant) -> Story:
    """Bring the Run to its end, whatever happens."""
    checked = reader.follow("Check")
    submitted, before = _kill_controller_before_it_notes(reader, tenant)
    reader.follow("Watch")
    place = tenant.place("demo")
    noted = place.attempt_start("train", 1)
    tenant.wait_until(lambda: any(entry.key == noted for entry in tenant.store.list(noted)), "the job is noted")
    jobs = tenant.find("pytorchjobs")
    after = jobs[0]["metadata"]["uid"]

    _wait_for_checkpoint(tenant, 10)
    tenant.kubectl("delete", "pod", f"{place.run_id}-t-1-worker-0")
    tenant.wait_until(lambda: len(tenant.attempts("demo", "train")) == 1, "the broken attempt is recorded")
    _wait_for_checkpoint(tenant, 20)

    reader.follow("Suspend")
    seconds = tenant.wait_until(lambda: tenant.gpus_in_use() == 0, "GPUs are free")
    tenant.wait_until(lambda: tenant.status("demo")["phase"] == "Suspended", "the Run is suspended")
    left = tenant.belongings("demo")
    reader.follow("Resume")

    tenant.wait_until(lambda: tenant.status("demo")["phase"] == "Running" and tenant.gpus_in_use() > 0, "it goes on")
    requests = _stop_store(tenant)
    results = reader.follow("Results")
    return Story(
        checked=checked,
        submitted=submitted,
        results=results,
        job_before=before,
        job_after=after,
        jobs_of_training=len(jobs),
        seconds_to_free_gpus=seconds,
        left_while_suspended=left,
        requests_that_met_the_outage=requests,
    )


def _kill_controller_before_it_notes(reader: Reader, tenant: Tenant) -> tuple[str, str]:
    """Its store is behind a proxy that swallows the note of the training's first job.

    Returns what submitting printed, and that job's uid.
    """
    endpoint = tenant.cluster.s3.endpoint
    with proxy_running(endpoint, address_towards(endpoint)) as proxy:
        proxy.path = "/train/attempts/001/start.json"
        proxy.breaks.append(Broken.HANG)
        _lead_controller_to(tenant, proxy.endpoint)
        submitted = reader.follow("Submit")
        tenant.wait_until(lambda: not proxy.breaks, "the controller tries to note its first job")
        (job,) = tenant.find("pytorchjobs")
        tenant.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=controller", "--grace-period=0", "--force")
        _lead_controller_to(tenant, tenant.cluster.s3.endpoint)
    return submitted, str(job["metadata"]["uid"])


def _lead_controller_to(tenant: Tenant, endpoint: str) -> None:
    tenant.kubectl("set", "env", CONTROLLER, f"AWS_ENDPOINT_URL_S3={endpoint}")
    tenant.kubectl("rollout", "status", CONTROLLER, "--timeout=180s")


def _wait_for_checkpoint(tenant: Tenant, step: int) -> None:
    executions = tenant.place("demo").executions("train")
    tenant.wait_until(
        lambda: any(found >= step for found, _ in find_complete(tenant.store, executions)), f"checkpoint {step}"
    )


def _stop_store(tenant: Tenant) -> int:
    """The server of the local cluster hears nothing for a while; that of a cluster of one's own is left alone.

    Returns how many requests waited at its end.
    """
    if tenant.cluster.registry != layout.REGISTRY:
        return 0
    server = local.program_pid(layout.default(), "versitygw")
    os.kill(server, signal.SIGSTOP)
    try:
        time.sleep(OUTAGE_SECONDS)
        return _count_unread(server, port=urlsplit(tenant.cluster.s3.endpoint).port or 80)
    finally:
        os.kill(server, signal.SIGCONT)


def _count_unread(process: int, *, port: int) -> int:
    """Connections to a port of a process's network with bytes that nobody has read (proc(5), net/tcp)."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(
        1
        for _, local_address, _, state, queues, *_ in lines
        if state in _CONNECTED and int(local_address.rpartition(":")[2], 16) == port and int(queues.split(":")[1], 16)
    )
