"""Figures stand side by side only if images and prompts were prepared in one way, or if someone asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.evaluate.extract import DEFAULT_MARKER
from tandem.evaluate.figures import summarise
from tandem.evaluate.judge import JudgeIdentity
from tandem.evaluate.result import Header
from tandem.evaluate.served import TextSource
from tandem.report.preprocessing import group_comparable, preprocessing_of, require_comparable
from tandem.report.text import draw_run

HERE: dict[str, Any] = {"preprocessing": "in-process"}
THERE: dict[str, Any] = {"preprocessing": "server"}


def test_results_from_before_there_were_servers_are_in_process() -> None:
    assert preprocessing_of({}) == "in-process"
    assert preprocessing_of(THERE) == "server"


def test_one_way_of_preparing_is_compared_without_a_word() -> None:
    require_comparable({"base": HERE, "adapter": {}}, across=False)
    require_comparable({"base": THERE, "adapter": THERE}, across=False)
    require_comparable({}, across=False)


def test_two_ways_are_compared_only_on_demand() -> None:
    with pytest.raises(BadConfiguration) as caught:
        require_comparable({"base": HERE, "vllm": THERE}, across=False)
    (fault,) = caught.value.faults
    assert "(base: in-process, vllm: server)" in str(fault)
    assert "--across-preprocessing" in fault.remedy
    require_comparable({"base": HERE, "vllm": THERE}, across=True)


def test_each_way_gets_a_table_of_its_own_in_process_first() -> None:
    assert group_comparable([THERE, HERE, THERE, {}], across=False) == [[1, 3], [0, 2]]
    assert group_comparable([THERE, HERE], across=True) == [[0, 1]]
    assert group_comparable([THERE], across=False) == [[0]]
    assert group_comparable([], across=False) == []


def describe(**preprocessing: str) -> dict[str, Any]:
    """A described Run with a result for each evaluation, prepared so."""
    results = []
    for name, way in preprocessing.items():
        header = Header(
            run="r-0",
            eval=name,
            marker=DEFAULT_MARKER,
            judge=JudgeIdentity(line="Judge: exact.", kind="exact"),
            preprocessing="server" if way == "server" else "in-process",
            texts_served_by=(TextSource(model="internvl", fingerprint="fp", texts=3),) if way == "server" else (),
        )
        result = summarise([], header).model_dump(mode="json", by_alias=True)
        results.append({"eval": name, "score": "0", "result": result})
    return {"run": "r-0", "submittedAt": "now", "stages": [], "results": results, "location": "there"}


def test_a_run_of_one_way_is_one_table_without_a_mark() -> None:
    drawn = draw_run(describe(base="in-process", adapter="in-process"))
    assert drawn.count("marker rate") == 1
    assert "prepar" not in drawn


def test_a_run_of_both_ways_shows_two_tables_and_says_why() -> None:
    drawn = draw_run(describe(vllm="server", base="in-process"))
    assert drawn.count("marker rate") == 2
    assert drawn.index("prepared in the process of tandem:") < drawn.index("prepared by a server:")
    assert (
        drawn.index("base: Judge: exact.") < drawn.index("prepared by a server:") < drawn.index("vllm: Judge: exact.")
    )
    assert "vllm: 3 texts by internvl (fp)" in drawn
    assert "not to be compared; --across-preprocessing puts all in one" in drawn


def test_on_demand_both_ways_stand_in_one_table_that_marks_its_columns() -> None:
    drawn = draw_run(describe(vllm="server", base="in-process"), across_preprocessing=True)
    assert drawn.count("marker rate") == 1
    (mark,) = [line for line in drawn.splitlines() if line.startswith("preprocessing")]
    assert mark.split() == ["preprocessing", "server", "in-process"]
