"""What the user may do in the namespace, as the server itself says."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.check.report import Collector, Severity
from tandem.control.api import ACCESS_REVIEW, POD, RUN, Api, Kind

_USES = (
    (RUN, "", ("create", "get"), Severity.FAULT),
    (RUN, "", ("list", "watch", "patch"), Severity.WARNING),
    (POD, "", ("get",), Severity.WARNING),
    (POD, "log", ("get",), Severity.WARNING),
)
"""Without the first two nothing can be submitted; the others are for following, suspending, cancelling and logs."""


def may(api: Api, verb: str, kind: Kind, namespace: str, *, name: str = "", part: str = "") -> bool:
    """Whether the user may do this in the namespace; `part` is a subresource."""
    asked = {"verb": verb, "group": kind.group, "resource": kind.plural, "namespace": namespace}
    asked |= {"name": name} if name else {}
    asked |= {"subresource": part} if part else {}
    answer = api.create(ACCESS_REVIEW, None, {"spec": {"resourceAttributes": asked}})
    return bool((answer.get("status") or {}).get("allowed"))


def check_permissions(api: Api, namespace: str, findings: Collector) -> None:
    """Report what submitting and following a Run needs and the user may not do."""
    for kind, part, verbs, severity in _USES:
        missing = [verb for verb in verbs if not may(api, verb, kind, namespace, part=part)]
        if missing:
            resource = "/".join(text for text in (kind.plural, part) if text)
            findings.add(
                "not-permitted",
                where=f"namespace {namespace}",
                what=f"you may not {', '.join(missing)} {resource}",
                remedy="Ask the platform team for the ClusterRole tandem-run-editor in this namespace "
                "(rbac.users in the values of the chart tandem).",
                severity=severity,
            )


def add_unseen(findings: Collector, what: Sequence[str], namespace: str) -> None:
    """Note what could not be looked at for want of permission."""
    if what:
        findings.add(
            "not-looked-at",
            where=f"namespace {namespace}",
            what=f"you may not look at {', '.join(what)}",
            remedy="Have somebody who may look there, or ask for this permission.",
            severity=Severity.WARNING,
        )
