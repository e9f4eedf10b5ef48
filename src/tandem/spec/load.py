"""Reading a Run file: YAML or JSON, every fault at once, each with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tandem.errors import BadConfiguration, Fault
from tandem.spec.identity import run_id
from tandem.spec.run import Run
from tandem.spec.yaml12 import Document, parse_yaml

MAX_BYTES = 1_000_000
"""A Kubernetes object cannot be larger than about this (etcd's limit is 1.5 MB)."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A Run as it was submitted: the validated models, and the spec exactly as written."""

    run: Run
    spec: dict[str, Any]
    folder: Path
    """What relative paths in the Run are relative to."""
    id: str


def load_run(path: Path) -> Submission:
    """Read and validate a Run file. Raises BadConfiguration with every fault, each with its line."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise BadConfiguration(
            Fault(
                where=str(path),
                what=f"cannot be read ({error.strerror})",
                remedy="Give the path of a Run file.",
            )
        ) from None
    return parse_run(body, name=str(path), folder=path.resolve().parent)


def parse_run(body: bytes, *, name: str, folder: Path) -> Submission:
    """Validate the text of a Run file; `name` stands before the line numbers of faults."""
    if len(body) > MAX_BYTES:
        raise BadConfiguration(
            Fault(
                where=name,
                what=f"is {len(body)} bytes, more than {MAX_BYTES}",
                remedy="A Run file names its data; it does not hold them.",
            )
        )
    try:
        document = parse_yaml(body.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadConfiguration(_yaml_fault(name, error)) from None
    if not isinstance(document.value, dict):
        raise BadConfiguration(
            Fault(
                where=name,
                what="is not a mapping",
                remedy="Start from a file under jobs/, such as jobs/demo.yaml.",
            )
        )
    try:
        run = Run.model_validate(document.value)
    except ValidationError as error:
        raise BadConfiguration([_model_fault(name, document, item) for item in error.errors()]) from None
    spec = document.value["spec"]
    return Submission(run=run, spec=spec, folder=folder, id=run_id(run.metadata.name, spec))


def _yaml_fault(name: str, error: Exception) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    where = f"{name}:{mark.line + 1}" if mark is not None else name
    return Fault(where=where, what=f"is not valid YAML ({problem})", remedy="Mend the syntax at that line.")


def _model_fault(name: str, document: Document, item: Any) -> Fault:
    location = tuple(part for part in item["loc"])
    line = document.line_of(location)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    where = f"{name}:{line}: {path}" if path else f"{name}:{line}"
    if item["type"] == "extra_forbidden":
        return Fault(where=where, what="unknown key", remedy="Remove it, or mend its spelling (see docs/run-file.md).")
    if item["type"] == "missing":
        return Fault(where=where, what="is missing", remedy="Add it (see docs/run-file.md).")
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    shown = f" (given: {str(given)[:60]!r})" if isinstance(given, str | int | float) else ""
    return Fault(where=where, what=f"{message[0].lower()}{message[1:]}{shown}", remedy="See docs/run-file.md.")
