"""docs/result.md: what stands in result.json and samples.jsonl, made from the models that write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tandem.evaluate.records import Record, ScoreLine
from tandem.evaluate.result import Result

_HEAD = """\
<!-- Made from src/tandem/evaluate by `python -m tandem.evaluate.reference > docs/result.md`: change it there. -->
# The result of an evaluation

`tandem show RUN` prints where each result lies. Two files hold all of it: `result.json` has the figures, and
`samples.jsonl` one JSON line a sample, from which each figure can be made again. `tandem schema result` and
`tandem schema sample` print their JSON schemas.

`schema` names the version of the format. A change that a reader of v1 could misread gets a new version; a new key does
not.
"""

_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}

SCHEMAS: dict[str, type[Record]] = {"result": Result, "sample": ScoreLine}
"""What `tandem schema` prints beside the Run file's."""


def describe_format(name: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of result.json (name: result) or of a line of samples.jsonl (name: sample)."""
    schema = SCHEMAS[name].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def reference_page() -> str:
    """The page: a table for each file and, below it, for each object in it."""
    parts = [_HEAD]
    shown: set[str] = set()
    for title, name in (("result.json", "result"), ("A line of samples.jsonl", "sample")):
        schema = describe_format(name)
        parts.append(_draw(title, schema))
        parts += [_draw(key, part) for key, part in schema["$defs"].items() if key not in shown]
        shown |= set(schema["$defs"])
    return "\n".join(parts)


def _draw(title: str, schema: Mapping[str, Any]) -> str:
    lines = ["| key | type | meaning |", "|---|---|---|"]
    for key, value in schema["properties"].items():
        lines.append(f"| `{key}` | {_type_of(value)} | {_one_line(value['description'])} |")
    return f"## {title}\n\n{_one_line(schema['description'])}\n\n" + "\n".join(lines) + "\n"


def _type_of(schema: Mapping[str, Any]) -> str:
    return " or ".join(_types_of(schema))


def _types_of(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield f"[{name}](#{name.lower()})"
    elif "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _types_of(part)
    elif "const" in schema or "enum" in schema:
        yield from (f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    elif schema["type"] == "array":
        yield f"list of {_type_of(schema['items'])}"
    elif schema["type"] == "object":
        yield f"{_type_of(schema['additionalProperties'])} by name"
    else:
        yield _WORDS[schema["type"]]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(reference_page())
