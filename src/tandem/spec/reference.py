"""The Run file described: its JSON schema and its reference page, both made from the models."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tandem.spec.base import Section, section_in
from tandem.spec.run import Run

SCHEMA_ID = "https://tandem.dev/schemas/run-v1alpha1.json"

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}

_HEAD = """\
<!-- Made from src/tandem/spec by `python -m tandem.spec.reference > docs/run-file.md`: change it there. -->
# The Run file

A Run file says what is wanted: a model, then optionally training, then named evaluations. One format serves
`tandem run` (this machine) and the custom resource `Run` (Kubernetes). It is YAML or JSON; `tandem check FILE` names
every fault with its line, and [jobs/](../jobs) holds files to start from.

Keys that are not listed here are refused. Where a default is None, leave the key out or write `null`. Relative paths
are relative to the Run file. Text is read as Kubernetes reads it: `4e-5` is a number, `010` is eight, `on` and `no`
are truth values. YAML's aliases and tags are refused.

A Run's id is its name and ten hex digits of the digest of `spec` exactly as written, without `desired`: the order of
the keys does not matter, everything else does. The same file is the same Run.
"""


@dataclass(frozen=True, kw_only=True)
class _Row:
    key: str
    type: str
    default: str
    meaning: str


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a Run file; keys as they are written, descriptions from the models.

    Rules between fields (such as: give epochs or steps) are not in it; `tandem check` applies them.
    """
    schema = Run.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID} | schema


def reference_page() -> str:
    """docs/run-file.md: a table for each section of the Run file, in the order of the file."""
    parts = [_HEAD]
    for title, section in sections():
        parts.append(f"## {title}\n\n{_one_line(section.__doc__)}\n\n{_table(section)}")
    return "\n".join(parts)


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Every section with its title: the path of its keys, a list written as spec.evals[]."""
    yield "The top level", Run
    yield from _sections_below(Run, "")


def _sections_below(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            title = f"{path}{field.alias or name}{'[]' if _is_list(field) else ''}"
            yield title, inner
            yield from _sections_below(inner, f"{title}.")


def _table(section: type[Section]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        row = _describe(name, field)
        lines.append(f"| `{row.key}` | {row.type} | {row.default} | {row.meaning} |")
    return "\n".join(lines) + "\n"


def _describe(name: str, field: FieldInfo) -> _Row:
    limits = " and ".join(_limits(field.metadata))
    kind = _type_of(field.annotation) + (f", {limits}" if limits else "")
    return _Row(key=field.alias or name, type=_cell(kind), default=_default(field), meaning=_cell(field.description))


def _type_of(annotation: Any) -> str:
    """The type in words: `TilesSpec | None` is "section or None"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [_type_of(part) for part in parts if part is not type(None)]
        return " or ".join([*words, "None"]) if type(None) in parts else " or ".join(words)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return _type_of_tuple(parts)
    if origin is dict:
        return "texts by name"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if hasattr(annotation, "__metadata__"):
        limits = " and ".join(_limits(annotation.__metadata__))
        return _type_of(parts[0]) + (f" {limits}" if limits else "")
    return _WORDS[annotation]


def _type_of_tuple(parts: tuple[Any, ...]) -> str:
    if parts[-1] is Ellipsis:
        inner = _type_of(parts[0])
        return "list of sections" if inner == "section" else f"list of {inner}s"
    return f"list of {len(parts)} ({', '.join(_type_of(part) for part in parts)})"


def _limits(metadata: Any) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _limits(item.metadata)
        elif type(item) in _SIGNS:
            sign, attribute = _SIGNS[type(item)]
            yield f"{sign} {getattr(item, attribute)}"
        elif isinstance(item, MinLen):
            yield "not empty"
        elif isinstance(item, MaxLen):
            yield f"at most {item.max_length}"
        elif getattr(item, "pattern", None):
            yield f"like `{item.pattern}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        given = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return _code(_flow(given)) if given else "all defaults"
    return _code(_flow(value))


def _flow(value: Any) -> str:
    """The value as it is written in a Run file, on one line."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value)


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str | None) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


if __name__ == "__main__":
    sys.stdout.write(reference_page())
