"""Many findings are abridged, never miscounted; severity and cause decide what is raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.check import Finding, Report, Severity, abridge, raise_if_faults
from tandem.check.report import Cause, Collector
from tandem.errors import BadConfiguration, BadData, Fault, TandemError, Unavailable


def finding(code: str, severity: Severity = Severity.FAULT, cause: Cause = "data", number: int = 0) -> Finding:
    fault = Fault(where=f"line {number}", what="is wrong", remedy="Mend it.")
    return Finding(code=code, severity=severity, cause=cause, fault=fault)


kinds = st.tuples(st.sampled_from(["image-missing", "duplicate-id"]), st.sampled_from(list(Severity)))


@settings(deadline=None)
@given(st.lists(kinds, max_size=60), st.integers(1, 8))
def test_what_is_shown_and_what_is_said_to_be_left_out_add_up(
    given_kinds: list[tuple[str, Severity]], most: int
) -> None:
    findings = [finding(*kind, number=number) for number, kind in enumerate(given_kinds)]
    shown = abridge(findings, most=most)
    for kind in set(given_kinds):
        of_kind = [item for item in shown if (item.code, item.severity) == kind]
        rest = [item.fault.what for item in of_kind if item.fault.what.startswith("and ")]
        left_out = int(rest[0].split()[1]) if rest else 0
        assert len(of_kind) - len(rest) + left_out == given_kinds.count(kind)
        assert len(of_kind) - len(rest) <= most
    assert [item for item in shown if item in findings] == [item for item in findings if item in shown]


def test_no_finding_is_left_out_of_the_json() -> None:
    report = Report(findings=tuple(finding("image-missing", number=number) for number in range(300)), facts={})
    assert len(report.to_json()["findings"]) == 300
    assert report.to_json()["faults"] == 300
    with pytest.raises(BadData) as raised:
        raise_if_faults(report)
    assert len(raised.value.faults) == 21
    assert raised.value.faults[-1].what == "and 280 more of this kind"


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        (("data", "configuration", "unavailable"), BadConfiguration),
        (("unavailable", "data"), BadData),
        (("unavailable",), Unavailable),
    ],
)
def test_what_has_to_change_decides_the_error(causes: tuple[Cause, ...], expected: type[TandemError]) -> None:
    report = Report(findings=tuple(finding("a", cause=cause) for cause in causes), facts={})
    with pytest.raises(expected) as raised:
        raise_if_faults(report)
    assert len(raised.value.faults) == len(causes)


def test_warnings_stop_nothing_unless_the_check_is_strict() -> None:
    report = Report(findings=(finding("tiles-differ", Severity.WARNING),), facts={})
    raise_if_faults(report)
    with pytest.raises(BadData):
        raise_if_faults(report.strictly())


def test_an_error_inside_the_block_becomes_findings_that_name_the_place_in_the_run_file() -> None:
    collector = Collector()
    with collector.catching("store-unusable", prefix="store"):
        raise Unavailable(Fault(where="s3://bucket", what="is away", remedy="Wait."))
    (found,) = collector.findings
    assert (found.code, found.cause, found.fault.where) == ("store-unusable", "unavailable", "store: s3://bucket")


def test_a_bug_is_not_taken_for_a_finding() -> None:
    with pytest.raises(ZeroDivisionError), Collector().catching("store-unusable"):
        raise ZeroDivisionError
