"""Reading a Run file that has faults as it was most likely meant, so that its inputs are checked in the same go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tandem.errors import BadConfiguration, Fault
from tandem.spec.base import BROKEN_RULE, forgiving
from tandem.spec.identity import run_id
from tandem.spec.load import (
    Place,
    Submission,
    build_section,
    describe_problems,
    find_similar_key,
    parse_document,
    read_file,
)
from tandem.spec.run import Run

_UNKNOWN_KEY = "extra_forbidden"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a Run file says, and what is wrong with it."""

    submission: Submission | None
    """With faults: what was most likely meant, to look at and never to run. None: that is not clear."""
    faults: tuple[Fault, ...]
    """All that is wrong with the file, each with its line."""


def read_run(path: Path) -> Reading:
    """Read a Run file, whatever is wrong with it.

    Unknown keys are read as those that they resemble, or left out where that is no better; broken rules between
    fields are reported and then overlooked. A value that is no value of its key leaves open what was meant.
    """
    name = str(path)
    try:
        document = parse_document(read_file(path, "a Run file"), name)
    except BadConfiguration as error:
        return Reading(submission=None, faults=error.faults)
    value = document.value
    run, problems = _validate(value)
    unknown = [tuple(problem["loc"]) for problem in problems if problem["type"] == _UNKNOWN_KEY]
    for rename in (True, False) if unknown else ():
        value = _read_as_meant(document.value, unknown, rename=rename)
        run, hidden = _validate(value)
        if run is not None:
            known = [(problem["loc"], problem["type"]) for problem in problems]
            problems += [problem for problem in hidden if (problem["loc"], problem["type"]) not in known]
            break
    faults = tuple(describe_problems(name, document, problems))
    if run is None:
        return Reading(submission=None, faults=faults)
    folder = path.resolve().parent
    spec = value["spec"]
    submission = Submission(run=run, spec=spec, folder=folder, id=run_id(run.metadata.name, spec))
    return Reading(submission=submission, faults=faults)


def _validate(value: Any) -> tuple[Run | None, list[Any]]:
    """The Run, its broken rules overlooked, and all problems, those that others had hidden too."""
    forgiven: set[str] = set()
    found: list[Any] = []
    while True:
        try:
            with forgiving(forgiven):
                return build_section(Run, value), found
        except ValidationError as error:
            problems = error.errors(include_url=False)
        found += [problem for problem in problems if problem not in found]
        sections = {problem["ctx"]["section"] for problem in problems if problem["type"] == BROKEN_RULE}
        if not sections:
            return None, found
        forgiven |= sections


def _read_as_meant(value: Mapping[str, Any], unknown: Sequence[Place], *, rename: bool) -> dict[str, Any]:
    """The same without unknown keys; with `rename`, each stands under the name that it resembles, if that is free."""
    meant: dict[str, Any] = deepcopy(dict(value))
    for place in unknown:
        section: Any = meant
        for part in place[:-1]:
            section = section[part]
        given = section.pop(place[-1])
        similar = find_similar_key(place) if rename else None
        if similar is not None:
            section.setdefault(similar, given)
    return meant
