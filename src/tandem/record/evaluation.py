"""Names of evaluations in the store: `checkpoint-every` makes one for each checkpoint."""

from __future__ import annotations

import re

from tandem.errors import BadConfiguration, Fault
from tandem.spec import EvalSpec, RunSpec, Subject

_OF_STEP = re.compile(r"^(?P<name>.+)-step-(?P<step>\d{6,})$")


def name_evaluation(entry: EvalSpec, step: int | None) -> str:
    """The name of an evaluation in the store."""
    return entry.name if step is None else f"{entry.name}-step-{step:06d}"


def find_evaluation(spec: RunSpec, name: str) -> tuple[EvalSpec, int | None]:
    """The entry of the Run that an evaluation comes from, and the checkpoint's step where it has one.

    Raises BadConfiguration if the Run has no such evaluation.
    """
    for entry in spec.evals:
        if entry.name == name and entry.of is not Subject.CHECKPOINT_EVERY:
            return entry, None
        found = _OF_STEP.match(name)
        if found and entry.name == found["name"] and entry.of is Subject.CHECKPOINT_EVERY:
            return entry, int(found["step"])
    raise BadConfiguration(
        Fault(
            where=f"evaluation {name!r}",
            what=f"is not one of this Run ({', '.join(entry.name for entry in spec.evals) or 'it has none'})",
            remedy="Give a name that stands under evals.",
        )
    )
