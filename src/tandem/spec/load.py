"""Reading a Run file: YAML or JSON, every fault at once, each with its line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tandem.errors import BadConfiguration, Fault
from tandem.spec.base import BROKEN_RULE, Section, section_in
from tandem.spec.identity import canonical_json, run_id
from tandem.spec.run import Run
from tandem.spec.yaml12 import Document, NotReadable, parse_yaml

MAX_BYTES = 500_000
"""A Kubernetes object cannot be larger than etcd's 1.5 MB, and carries its managed fields too."""

REFERENCE = "docs/run-file.md"

SectionT = TypeVar("SectionT", bound=Section)

Place = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top of the file."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A Run as it was submitted: the validated models, and the spec exactly as written."""

    run: Run
    spec: dict[str, Any]
    folder: Path
    """What relative paths in the Run are relative to."""
    id: str

    def to_document(self) -> dict[str, Any]:
        """The Run as a file or an API server has it, its spec exactly as written."""
        metadata = self.run.metadata.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"apiVersion": self.run.api_version, "kind": self.run.kind, "metadata": metadata, "spec": self.spec}


def load_run(path: Path) -> Submission:
    """Read and validate a Run file. Raises BadConfiguration with every fault, each with its line."""
    return parse_run(read_file(path, "a Run file"), name=str(path), folder=path.resolve().parent)


def parse_run(body: bytes, *, name: str, folder: Path) -> Submission:
    """Validate the text of a Run file; `name` stands before the line numbers of faults.

    Raises BadConfiguration with every fault.
    """
    document = parse_document(body, name)
    run = _validate(Run, document, name)
    spec = document.value["spec"]
    return Submission(run=run, spec=spec, folder=folder, id=run_id(run.metadata.name, spec))


def parse_object(value: dict[str, Any]) -> Submission:
    """Validate a Run as an API server gives it: its metadata has more than a file's, which does not matter here.

    Raises BadConfiguration with every fault.
    """
    given = value.get("metadata") or {}
    metadata = {key: given[key] for key in ("name", "namespace") if key in given}
    kept = {key: value[key] for key in ("apiVersion", "kind", "spec") if key in value}
    try:
        run = Run.model_validate_json(canonical_json({**kept, "metadata": metadata}), strict=True)
    except ValidationError as error:
        faults = []
        for problem in error.errors(include_url=False):
            what, remedy = _explain(tuple(problem["loc"]), problem)
            faults.append(Fault(where=_path(tuple(problem["loc"])) or "the Run", what=what, remedy=remedy))
        raise BadConfiguration(faults) from None
    spec = value["spec"]
    return Submission(run=run, spec=spec, folder=Path("/"), id=run_id(run.metadata.name, spec))


def load_part(path: Path, kind: type[SectionT], *, place: Place) -> SectionT:
    """Read and validate a file with some keys of one section, which has this place in a Run file.

    Raises BadConfiguration with every fault, each with its line.
    """
    remedy = f"Write keys of {_section_title(place)} as in a Run file (see {REFERENCE})."
    return _validate(kind, parse_document(read_file(path, "a YAML file"), str(path), remedy), str(path), place)


def read_file(path: Path, wanted: str) -> bytes:
    """The file's bytes, at most one more than may be. Raises BadConfiguration if there are none to read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadConfiguration(
            Fault(where=str(path), what=f"cannot be read ({reason})", remedy=f"Give the path of {wanted}.")
        ) from None


def _validate(kind: type[SectionT], document: Document, name: str, above: Place = ()) -> SectionT:
    """`above`: the place that the document has in a Run file."""
    try:
        return build_section(kind, document.value)
    except ValidationError as error:
        raise BadConfiguration(describe_problems(name, document, error.errors(include_url=False), above)) from None


def build_section(kind: type[SectionT], value: Any) -> SectionT:
    """Validate as strictly as a Kubernetes API server: "50" is no number, and 1.0 is a whole one.

    Raises pydantic's ValidationError.
    """
    return kind.model_validate_json(canonical_json(value), strict=True)


def describe_problems(name: str, document: Document, problems: Sequence[Any], above: Place = ()) -> list[Fault]:
    """Pydantic's errors as faults, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: document.line_of(problem["loc"]))
    return [_describe(name, document, problem, above) for problem in ordered]


def parse_document(
    body: bytes, name: str, example: str = "Start from a file under jobs/, such as jobs/demo.yaml."
) -> Document:
    """Keys and values with their lines. Raises BadConfiguration if that is not what the text holds."""
    if len(body) > MAX_BYTES:
        raise BadConfiguration(
            Fault(
                where=name,
                what=f"has more than {MAX_BYTES} bytes",
                remedy="Such a file names its data; it does not hold them.",
            )
        )
    try:
        document = parse_yaml(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise BadConfiguration(
            Fault(where=f"{name}:{line}", what="is not UTF-8", remedy="Save the file as UTF-8.")
        ) from None
    except NotReadable as error:
        where = name if error.line is None else f"{name}:{error.line}"
        raise BadConfiguration(Fault(where=where, what=error.what, remedy=error.remedy)) from None
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "is not a mapping of keys to values"
        raise BadConfiguration(Fault(where=name, what=what, remedy=example))
    return document


def _describe(name: str, document: Document, problem: Any, above: Place) -> Fault:
    place: Place = tuple(problem["loc"])
    where = f"{name}:{document.line_of(place)}"
    if place:
        where += f": {_path(place)}"
    what, remedy = _explain((*above, *place), problem)
    return Fault(where=where, what=what, remedy=remedy)


def _explain(place: Place, problem: Any) -> tuple[str, str]:
    """What is wrong with the value at this place, and the remedy."""
    reference = f"See {_section_title(place)} in {REFERENCE}."
    match problem["type"]:
        case problem_type if problem_type == BROKEN_RULE:
            return problem["ctx"]["what"], problem["ctx"]["remedy"]
        case "extra_forbidden":
            return "unknown key", _suggest(place) or f"Remove it. {reference}"
        case "missing":
            return "is missing", f"Add it. {reference}"
        case "string_too_short":
            return "is empty", reference
        case "string_pattern_mismatch":
            return f"is not allowed{_given(problem)}", _first_sentence(_field_at(place)) or reference
        case "string_type" if isinstance(problem["input"], bool | int | float):
            return f"should be a text{_given(problem)}", "Write it in quotes."
        case "int_type" | "int_parsing" | "int_from_float":
            return f"should be a whole number{_given(problem)}", "Write a whole number, without quotes."
        case "float_type":
            return f"should be a number{_given(problem)}", "Write a number, without quotes."
        case "bool_type":
            return f"should be true or false{_given(problem)}", "Write true or false, without quotes."
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"should hold keys and values{_given(problem)}", reference
        case _:
            return f"{_decapitalise(str(problem['msg']).removeprefix('Input '))}{_given(problem)}", reference


def _path(place: Place) -> str:
    """The place as one writes it: spec.evals[1].name; whatever is in a key, on one line."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_one_line(part)}" for part in place).lstrip(".")


def _one_line(key: str) -> str:
    return key[:60] if key.isprintable() else ascii(key[:60])


def _given(problem: Any) -> str:
    value = problem["input"]
    if isinstance(value, str):
        return f" (given: {value[:60]!r})"
    return f" (given: {json.dumps(value)})" if isinstance(value, bool | int | float) else ""


def _decapitalise(message: str) -> str:
    return message[:1].lower() + message[1:]


def _suggest(place: Place) -> str | None:
    key = find_similar_key(place)
    return None if key is None else f"Did you mean {key}?"


def find_similar_key(place: Place) -> str | None:
    """The key that an unknown one at this place most likely stands for."""
    section, key = _section_at(place[:-1]), place[-1]
    if section is None or not isinstance(key, str):
        return None
    known = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(key.lower().replace("_", "").replace("-", ""), [k.lower() for k in known], n=1)
    return next((candidate for candidate in known if candidate.lower() in close), None)


def _section_title(place: Place) -> str:
    """The title that the section has in the reference page: the path without indices, up to the innermost section."""
    keys = [str(part) for part in place if not isinstance(part, int)]
    while keys and _section_at(tuple(keys)) is None:
        keys.pop()
    return ".".join(keys) or "the top level"


def _field_at(place: Place) -> FieldInfo | None:
    section = _section_at(place[:-1])
    fields: Sequence[tuple[str, FieldInfo]] = list(section.model_fields.items()) if section else []
    return next((field for name, field in fields if place[-1] in (field.alias, name)), None)


def _section_at(place: Place) -> type[Section] | None:
    section: type[Section] = Run
    for key in place:
        if isinstance(key, int):
            continue
        field = next((field for name, field in section.model_fields.items() if key == (field.alias or name)), None)
        inner = section_in(field.annotation) if field is not None else None
        if inner is None:
            return None
        section = inner
    return section


def _first_sentence(field: FieldInfo | None) -> str | None:
    text = " ".join((field.description if field and field.description else "").split())
    return f"{text.partition('. ')[0].rstrip('.')}." if text else None
