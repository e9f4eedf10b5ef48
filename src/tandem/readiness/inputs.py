"""Whether pods can read the inputs of a Run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tandem.check.report import Collector, Severity
from tandem.inputs import find_unreachable, list_references, pin_remote
from tandem.spec import RunSpec
from tandem.store import open_store


def check_inputs(spec: RunSpec, findings: Collector, *, has_store: bool) -> None:
    """Report inputs that pods cannot read; those in a store are looked for in it if there is an account for it."""
    references = list_references(spec)
    faults = {reference: find_unreachable(reference) for reference in references}
    findings.take("input-unreachable", [fault for found in faults.values() for fault in found], cause="configuration")
    stored = tuple(one for one in references if one.text.startswith("s3://") and not faults[one])
    if not stored:
        return
    if not has_store:
        findings.add(
            "not-looked-at",
            where=", ".join(one.place for one in stored),
            what="whether the store holds these was not looked at",
            remedy="Give --store (or TANDEM_STORE), and an account in the usual AWS variables.",
            severity=Severity.WARNING,
        )
        return
    with findings.catching("input-missing"), tempfile.TemporaryDirectory(prefix="tandem-check-") as scratch:
        pin_remote(stored, open_bucket=lambda bucket: open_store(f"s3://{bucket}", brief=True), scratch=Path(scratch))
