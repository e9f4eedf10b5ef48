from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.spec.base import Section
from tandem.spec.reference import json_schema, reference_page, sections

PAGE = Path(__file__).parents[2] / "docs" / "run-file.md"
SECTIONS = list(sections())


def test_the_page_in_docs_is_the_one_that_the_models_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page(), (
        "make it again: python -m tandem.spec.reference > docs/run-file.md"
    )


@pytest.mark.parametrize(("title", "section"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_every_section_and_every_field_says_what_it_means(title: str, section: type[Section]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description, f"{title}.{name} has no docstring"
        if field.default is None:
            assert "None" in field.description, f"{title}.{name} does not say what None means"


def test_the_page_shows_every_key_with_its_default_and_limits() -> None:
    page = reference_page()
    for _, section in SECTIONS:
        for name, field in section.model_fields.items():
            assert f"| `{field.alias or name}` |" in page
    assert "| `r` | whole number, ≥ 1 | `16` |" in page
    assert "| `globalSize` | whole number, ≥ 1 | **required** |" in page
    assert "| `betas` | list of 2 (number ≥ 0 and < 1, number ≥ 0 and < 1) | `[0.9, 0.999]` |" in page
    assert "| `thumbnail` | true or false | `true` |" in page
    assert "| `tiles` | section or None | `None` |" in page


def test_tables_have_four_columns_in_every_line() -> None:
    rows = [line for line in reference_page().splitlines() if line.startswith("|")]
    assert all(len(row.replace("\\|", "").split("|")) == 6 for row in rows)


def test_the_schema_uses_the_keys_of_the_file_and_describes_every_one() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    objects = [schema, *(part for part in schema["$defs"].values() if part["type"] == "object")]
    assert len(objects) >= 12
    for part in objects:
        assert part["additionalProperties"] is False
        assert part["description"]
        for key, value in part["properties"].items():
            assert "_" not in key
            # pydantic leaves out a description that only repeats that of the section it refers to
            section = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
            assert value.get("description") or section.get("description"), f"{part['title']}.{key}"
