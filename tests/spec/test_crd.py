from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import Field

from tandem.spec import RunSpec
from tandem.spec.base import Section
from tandem.spec.crd import chart_template, custom_resource_definition, structural_schema
from tandem.spec.reference import sections
from tandem.spec.status import RunStatus
from tests.charts.places import CRD_CHART

VERSION = custom_resource_definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield place, schema
    for key, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{place}.{key}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{place}[]")


def schema_of(place: str) -> dict[str, Any]:
    return dict(nodes(SCHEMA))[place]


def test_the_charts_template_is_the_one_that_the_models_make() -> None:
    written = (CRD_CHART / "templates" / "runs.yaml").read_text(encoding="utf-8")
    assert written == chart_template(), "run: python -m tandem.spec.crd > charts/tandem-crds/templates/runs.yaml"


def test_the_schema_says_only_what_a_structural_schema_may_say() -> None:
    for place, node in nodes(SCHEMA):
        assert "type" in node, place
        assert not {"$ref", "anyOf", "default", "title", "const", "prefixItems"} & node.keys(), place
        assert "additionalProperties" not in node, place


def test_every_key_of_the_run_file_is_in_the_schema_and_described() -> None:
    for title, section in sections():
        if title.startswith("spec"):
            node = schema_of(f".{title}")
            assert set(node["properties"]) == {field.alias or name for name, field in section.model_fields.items()}
            assert all(value["description"] for value in node["properties"].values())


def test_only_what_the_run_file_demands_is_required() -> None:
    for title, section in sections():
        if title.startswith("spec"):
            demanded = [field.alias or name for name, field in section.model_fields.items() if field.is_required()]
            assert schema_of(f".{title}").get("required", []) == demanded, title


def test_null_is_allowed_where_the_models_allow_none() -> None:
    assert schema_of(".spec.limit") == {
        "type": "integer",
        "minimum": 1,
        "nullable": True,
        "description": schema_of(".spec.limit")["description"],
    }
    assert schema_of(".spec.train")["nullable"]
    assert "nullable" not in schema_of(".spec.seed")


def test_limits_and_choices_are_those_of_the_models() -> None:
    dropout = schema_of(".spec.train.lora.dropout")
    assert (dropout["minimum"], dropout["maximum"], dropout["exclusiveMaximum"]) == (0, 1, True)
    assert schema_of(".spec.train.optimizer.learningRate")["exclusiveMinimum"] is True
    betas = schema_of(".spec.train.optimizer.betas")
    assert (betas["minItems"], betas["maxItems"], betas["items"]["type"]) == (2, 2, "number")
    assert schema_of(".spec.desired")["enum"] == ["Active", "Suspended", "Cancelled"]
    assert schema_of(".metadata.name")["pattern"] == schema_of(".spec.evals[].name")["pattern"]


def test_all_of_the_spec_but_desired_has_a_rule_against_change() -> None:
    rules = schema_of(".spec")["x-kubernetes-validations"]
    fixed = {rule.get("fieldPath") for rule in rules if rule["message"].startswith("cannot change")} - {None}
    assert fixed == {f".{key}" for key in schema_of(".spec")["properties"]} - {".desired"}


def test_columns_show_what_the_status_has() -> None:
    found = dict(nodes({"type": "object", "properties": {"spec": {}, "status": schema_of(".status")}}))
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"]
        assert path == ".metadata.creationTimestamp" or found[path]["type"] == column["type"]


def test_a_status_is_written_with_the_keys_of_the_schema() -> None:
    status = RunStatus.model_validate(
        {"phase": "Running", "progress": {"unit": "steps", "done": 1, "total": 2, "text": ""}}
    )
    written = status.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert written.keys() <= schema_of(".status")["properties"].keys()
    assert written["progress"] == {"unit": "steps", "done": 1, "total": 2, "text": ""}


class _NullableChoice(Section):
    """What Kubernetes has no plain word for."""

    choice: Literal["a", "b"] | None = None


class _Mixed(Section):
    """A list whose entries differ."""

    pair: tuple[int, str]


class _Multiple(Section):
    """A limit that the generator does not know."""

    even: int = Field(multiple_of=2)


@pytest.mark.parametrize("section", [_NullableChoice, _Mixed, _Multiple])
def test_what_the_generator_cannot_say_it_refuses_to_leave_out(section: type[Section]) -> None:
    with pytest.raises(AssertionError):
        structural_schema(section)


def test_two_braces_of_a_description_do_not_become_a_template_action(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunSpec.__doc__
    monkeypatch.setattr("tandem.spec.crd._spec_schema", lambda: {"type": "object", "description": "a {{b}}"})
    assert 'description: a {{ "{{" }}b}}' in chart_template()
