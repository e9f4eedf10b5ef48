"""What a check finds: every fault with its place and remedy, and figures about what would be run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from tandem.errors import BadConfiguration, BadData, Fault, TandemError, Unavailable

SCHEMA = "tandem.dev/check/v1"
MOST_SHOWN = 20
"""Findings of one code that are shown; the rest is counted."""

Cause = Literal["data", "configuration", "unavailable"]
"""What has to change: the data, the Run file or the machine; or nothing, because something is away for now."""

_ERRORS: dict[Cause, type[TandemError]] = {
    "configuration": BadConfiguration,
    "data": BadData,
    "unavailable": Unavailable,
}


class Severity(StrEnum):
    """A fault stops a Run before it starts; a warning does not, unless the check is strict."""

    FAULT = "fault"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or that one should know before a long Run."""

    code: str
    """Which kind of finding, in kebab-case; stable, for machines."""
    severity: Severity
    cause: Cause
    fault: Fault


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a check found out."""

    findings: tuple[Finding, ...]
    """All of them, in the order in which the Run file is read."""
    facts: dict[str, Any]
    """Counts, tiles, tokens, steps and memory, ready for JSON; what could not be found out is absent."""

    def of_severity(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity is severity)

    def strictly(self) -> Report:
        """The same report with every warning as a fault, for `--strict`."""
        return replace(self, findings=tuple(replace(item, severity=Severity.FAULT) for item in self.findings))

    def preceded_by(self, faults: Sequence[Fault]) -> Report:
        """The same report behind the faults of the Run file itself."""
        own = (
            Finding(code="run-file", severity=Severity.FAULT, cause="configuration", fault=fault) for fault in faults
        )
        return replace(self, findings=(*own, *self.findings))

    def followed_by(self, other: Report) -> Report:
        """Both reports in one."""
        return Report(findings=(*self.findings, *other.findings), facts={**self.facts, **other.facts})

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object (schema tandem.dev/check/v1), with every finding."""
        return {
            "schema": SCHEMA,
            "faults": len(self.of_severity(Severity.FAULT)),
            "warnings": len(self.of_severity(Severity.WARNING)),
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity.value,
                    "where": finding.fault.where,
                    "what": finding.fault.what,
                    "remedy": finding.fault.remedy,
                }
                for finding in self.findings
            ],
            "facts": self.facts,
        }


def abridge(findings: Sequence[Finding], *, most: int = MOST_SHOWN) -> list[Finding]:
    """At most `most` findings of each code and severity; after the last one shown stands how many more there are."""
    totals = Counter((finding.code, finding.severity) for finding in findings)
    seen: Counter[tuple[str, Severity]] = Counter()
    shown = []
    for finding in findings:
        kind = (finding.code, finding.severity)
        seen[kind] += 1
        if seen[kind] <= most:
            shown.append(finding)
        if seen[kind] == most and totals[kind] > most:
            rest = f"and {totals[kind] - most} more of this kind"
            remedy = "All of them: tandem check FILE --json."
            shown.append(replace(finding, fault=Fault(where=finding.code, what=rest, remedy=remedy)))
    return shown


def raise_if_faults(report: Report) -> None:
    """Raise one error with all faults (abridged); warnings alone raise nothing.

    BadConfiguration if the Run file or the machine has to change, else BadData if data has to, else Unavailable.
    """
    faults = report.of_severity(Severity.FAULT)
    for cause, error in _ERRORS.items():
        if any(finding.cause == cause for finding in faults):
            raise error([finding.fault for finding in abridge(faults)])


@dataclass(kw_only=True)
class Collector:
    """Gathers findings while a check goes on."""

    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        code: str,
        *,
        where: str,
        what: str,
        remedy: str,
        cause: Cause = "configuration",
        severity: Severity = Severity.FAULT,
    ) -> None:
        """Note one finding."""
        fault = Fault(where=where, what=what, remedy=remedy)
        self.findings.append(Finding(code=code, severity=severity, cause=cause, fault=fault))

    def take(
        self, code: str, faults: Sequence[Fault], *, cause: Cause = "data", severity: Severity = Severity.FAULT
    ) -> None:
        """Note the faults that a reader returned."""
        self.findings += [Finding(code=code, severity=severity, cause=cause, fault=fault) for fault in faults]

    @contextmanager
    def catching(self, code: str, *, prefix: str = "") -> Iterator[None]:
        """Turn the errors of the block into findings; `prefix` says which place of the Run file led there."""
        try:
            yield
        except TandemError as error:
            cause: Cause = "unavailable" if isinstance(error, Unavailable) else "configuration"
            cause = "data" if isinstance(error, BadData) else cause
            faults = error.faults
            if prefix:
                faults = tuple(replace(fault, where=f"{prefix}: {fault.where}") for fault in faults)
            self.take(code, faults, cause=cause)
