"""`tandem check`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.check.report import Collector, Finding, Report, Severity, abridge, raise_if_faults
from tandem.check.run import check_run
from tandem.check.text import draw_facts
from tandem.cli.console import Format, print_document, print_text, tell
from tandem.cli.places import cache_folder
from tandem.cli.where import Login
from tandem.errors import BadConfiguration, Fault, TandemError
from tandem.inputs import Resolver, list_references
from tandem.spec import Submission
from tandem.spec.meant import Reading, read_run

_MOST_GPU_MEMORY = 2**20
"""GiB."""


def check_file(
    path: Path,
    store_url: str | None,
    *,
    strict: bool,
    gpu_memory: float | None,
    output: Format,
    cluster: Login | None = None,
) -> int:
    """Print every finding and what would be run; the exit code says whether it could be.

    `gpu_memory` (GiB) is that of the GPUs that the Run is meant for: they need not be in this machine. `cluster`: where
    it is meant to run; None for this machine.
    """
    memory = None if gpu_memory is None else _to_bytes(gpu_memory)
    reading = read_run(path)
    if cluster is None:
        report = check_reading(reading, store_url, strict=strict, gpu_memory=memory, gpus=0)
    else:
        report = _check_for_cluster(reading, store_url, cluster, gpu_memory=memory)
        report = report.strictly() if strict else report
    code = 0
    try:
        raise_if_faults(report)
    except TandemError as error:
        code = error.exit_code
    if output is not Format.TABLE:
        print_document(report.to_json(), output)
        return code
    print_findings(report.findings)
    if reading.submission is None:
        print_text(f"{path}: not ready; its model and data are looked at once it can be read")
        return code
    print_text(draw_facts(report.facts))
    print_text(f"{reading.submission.id}: " + ("ready to run" if code == 0 else "not ready"))
    return code


def _to_bytes(gpu_memory: float) -> int:
    if not 0 < gpu_memory < _MOST_GPU_MEMORY:
        what = f"{gpu_memory} is not the memory of a GPU in GiB"
        raise BadConfiguration(Fault(where="--gpu-memory", what=what, remedy="Give a number such as 80."))
    return int(gpu_memory * 2**30)


def check_reading(
    reading: Reading, store_url: str | None, *, strict: bool, gpu_memory: int | None, gpus: int
) -> Report:
    """Look at the Run file and at everything that its Run needs; `gpus` is 0 if it will not run on this machine."""
    submission = reading.submission
    if submission is None:
        return Report(findings=(), facts={}).preceded_by(reading.faults)
    report = _check_files(submission, store_url, environment=os.environ, gpu_memory=gpu_memory, gpus=gpus)
    report = report.preceded_by(reading.faults)
    return report.strictly() if strict else report


def _check_for_cluster(reading: Reading, store_url: str | None, cluster: Login, *, gpu_memory: int | None) -> Report:
    """Look at the Run file, at the cluster, and at the inputs as far as they are files of this machine.

    Those in a store were looked at before they were pushed; they are not brought here, but found there by their
    manifests.
    """
    submission = reading.submission
    if submission is None:
        return Report(findings=(), facts={}).preceded_by(reading.faults)
    report = Report(findings=(), facts={"run": submission.id})
    if not any(one.text.startswith("s3://") for one in list_references(submission.run.spec)):
        report = _check_files(submission, store_url, environment=None, gpu_memory=gpu_memory, gpus=0)
    has_store = store_url is not None and store_url.startswith("s3://")
    return report.preceded_by(reading.faults).followed_by(_look_at_cluster(submission, cluster, has_store=has_store))


def _look_at_cluster(submission: Submission, cluster: Login, *, has_store: bool) -> Report:
    from tandem.readiness import check_cluster, check_inputs

    findings = Collector()
    facts: dict[str, Any] = {}
    check_inputs(submission.run.spec, findings, has_store=has_store)
    with findings.catching("cluster-unusable"):
        api = cluster.for_run(submission.run).connect()
        facts["cluster"] = {"server": api.server} | check_cluster(submission, api, api.namespace, findings)
    return Report(findings=tuple(findings.findings), facts=facts)


def _check_files(
    submission: Submission,
    store_url: str | None,
    *,
    environment: Mapping[str, str] | None,
    gpu_memory: int | None,
    gpus: int,
) -> Report:
    return check_run(
        submission,
        sources=Resolver(folder=submission.folder, cache=cache_folder()),
        store_url=store_url,
        environment=environment,
        gpu_memory=gpu_memory,
        gpus=gpus,
        cpu_count=len(os.sched_getaffinity(0)),
    )


def print_findings(findings: Sequence[Finding]) -> None:
    """Faults and warnings, one line each."""
    for finding in abridge(findings):
        word = "fault" if finding.severity is Severity.FAULT else "warning"
        tell(f"{word}: {finding.fault}")
