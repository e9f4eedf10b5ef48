"""The preflight: every fault of a Run at once, before a model is loaded."""

from tandem.check.report import Finding, Report, Severity, abridge, raise_if_faults
from tandem.check.run import check_run
from tandem.check.sources import Sources

__all__ = ["Finding", "Report", "Severity", "Sources", "abridge", "check_run", "raise_if_faults"]
