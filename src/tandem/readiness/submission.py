"""The Run object: whether the server takes it."""

from __future__ import annotations

from tandem import __version__
from tandem.check.report import Collector
from tandem.control.api import RUN, AlreadyExists, Api, Forbidden, Refused
from tandem.spec import Submission, spec_digest


def check_object(api: Api, namespace: str, submission: Submission, findings: Collector) -> str | None:
    """Have the server look at the Run as it would when it is submitted (a dry run); how it stands there in words."""
    with findings.catching("run-refused"):
        try:
            api.create(RUN, namespace, submission.to_document(), strict=True, dry_run=True)
        except AlreadyExists:
            return _compare(api, namespace, submission, findings)
        except (Forbidden, Refused) as error:
            findings.add(
                "run-refused",
                where=error.faults[0].where,
                what=error.faults[0].what,
                remedy="Correct it. If this version allows it, have the platform team upgrade the chart tandem-crds to "
                f"{__version__}.",
            )
            return None
        return "not there yet"
    return None


def _compare(api: Api, namespace: str, submission: Submission, findings: Collector) -> str | None:
    name = submission.run.metadata.name
    found = api.get(RUN, namespace, name)
    if spec_digest(found["spec"]) == spec_digest(submission.spec):
        return f"there already, {(found.get('status') or {}).get('phase', 'Pending')}"
    findings.add(
        "name-taken",
        where=f"Run {namespace}/{name}",
        what="is there already, with another spec",
        remedy="Give this one another name, or delete that one.",
    )
    return None
