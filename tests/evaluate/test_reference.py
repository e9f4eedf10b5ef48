from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem.evaluate.reference import SCHEMAS, describe_format, reference_page

PAGE = Path(__file__).parents[2] / "docs" / "result.md"


def test_the_page_in_docs_is_the_one_that_the_models_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page(), (
        "make it again: python -m tandem.evaluate.reference > docs/result.md"
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_object_and_every_key_says_what_it_means(name: str) -> None:
    schema = describe_format(name)
    parts: dict[str, Any] = {name: schema, **schema["$defs"]}
    for title, part in parts.items():
        assert part["description"]
        assert part["additionalProperties"] is False
        for key, value in part["properties"].items():
            assert value.get("description"), f"{title}.{key} has no docstring"
            assert f"| `{key}` |" in reference_page()
