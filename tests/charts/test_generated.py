from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tandem
from charts.readme import read_values, readme, shown
from tests.charts.places import CHART, CRD_CHART

CHARTS = (CHART, CRD_CHART)
each_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


def values_of(chart: Path) -> str:
    return (chart / "values.yaml").read_text(encoding="utf-8")


def schema_of(chart: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    return schema


@each_chart
def test_the_readme_lists_the_values_as_they_are(chart: Path) -> None:
    assert (chart / "README.md").read_text(encoding="utf-8") == readme(chart), "run: python charts/readme.py"


@each_chart
def test_every_value_is_described(chart: Path) -> None:
    assert [value.key for value in shown(read_values(values_of(chart))) if not value.words] == []


def test_a_comment_describes_the_key_below_it_and_what_is_in_it() -> None:
    text = "# ## First\n# -- Words\n# that go on.\na: 1\nb:\n  # -- More.\n  c: {d: [x]}\ne: null\n"
    values = {value.key: value for value in read_values(text)}
    assert list(values) == ["a", "b", "b.c", "b.c.d", "e"]
    assert (values["a"].words, values["a"].default, values["a"].section) == ("Words that go on.", "1", "First")
    assert [value.key for value in shown(read_values(text))] == ["a", "b.c", "e"]
    assert values["e"].words is None


def objects_in(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "properties" in schema:
        yield place, schema
        for key, value in schema["properties"].items():
            yield from objects_in(value, f"{place}.{key}")
    for key, value in schema.get("definitions", {}).items():
        yield from objects_in(value, key)


@each_chart
def test_the_schema_refuses_what_it_does_not_list(chart: Path) -> None:
    for place, found in objects_in(schema_of(chart)):
        assert found["additionalProperties"] is False, place


@each_chart
def test_the_schema_knows_every_value(chart: Path) -> None:
    schema = schema_of(chart)

    def look(node: dict[str, Any], value: Any, place: str) -> Iterator[str]:
        while "$ref" in node:
            node = schema["definitions"][node["$ref"].rpartition("/")[2]]
        if isinstance(value, dict) and node.get("properties"):
            yield from (f"{place}.{key}" for key in value if key not in node["properties"])
            for key in value.keys() & node["properties"].keys():
                yield from look(node["properties"][key], value[key], f"{place}.{key}")
        elif isinstance(value, dict) and isinstance(node.get("additionalProperties"), dict):
            for key, inner in value.items():
                yield from look(node["additionalProperties"], inner, f"{place}.{key}")
        elif node.keys() <= {"description"}:
            yield f"{place} (anything goes)"

    assert list(look(schema, yaml.safe_load(values_of(chart)), "")) == []


def test_the_schema_lists_no_value_that_is_not_there() -> None:
    schema, values = schema_of(CHART), yaml.safe_load(values_of(CHART))
    for place, found in objects_in(schema):
        root, *keys = place.split(".")
        node: Any = {
            "": values,
            "profile": values["profileDefaults"],
            "resources": values["controller"]["resources"],
        }.get(root)
        if node is None:  # a schedule: there is none to begin with
            continue
        for key in keys:
            node = node[key]
        assert found["properties"].keys() - {"global"} == node.keys(), place


@each_chart
def test_chart_and_program_have_one_version(chart: Path) -> None:
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["appVersion"] == about["version"] == tandem.__version__
    assert about["kubeVersion"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_no_value_is_a_credential(chart: Path) -> None:
    words = ("password", "secretkey", "accesskey", "apikey", "token:")
    for value in read_values(values_of(chart)):
        if any(word in value.path[-1].lower() for word in words):
            assert value.path[-1].endswith("Key"), f"{value.key} should name a key of a Secret"
