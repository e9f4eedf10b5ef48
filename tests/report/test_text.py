"""What a terminal shows of a Run."""

from __future__ import annotations

from tandem.report.text import draw_metric, draw_table


def test_a_figure_comes_with_its_interval() -> None:
    assert draw_metric({"value": 0.9751, "low": 0.95, "high": 1.0, "n": 300}) == "0.975 [0.950, 1.000]"


def test_nothing_to_measure_is_a_dash_and_never_a_zero() -> None:
    assert draw_metric({"value": None, "low": None, "high": None, "n": 0}) == "-"
    assert draw_metric({"value": 0.0, "low": None, "high": None, "n": 1}) == "0.000"


def test_columns_are_as_wide_as_their_content() -> None:
    assert draw_table(("", "a"), [("long name", "1"), ("x", "22")]) == "            a\nlong name   1\nx          22"
