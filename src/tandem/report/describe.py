"""A Run as one JSON document: stages, attempts and results, read from the store alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tandem.errors import BadData, Fault
from tandem.outcome import parse_outcome
from tandem.record.commit import list_executions, read_commit, read_file
from tandem.record.run import parse_record
from tandem.store import NotThere, Store
from tandem.store.layout import EXIT, RunPlace

SCHEMA = "tandem.dev/run-description/v1"

_SHARD = re.compile(r"shard-([0-9]+)")


def describe_run(store: Store, place: RunPlace) -> dict[str, Any]:
    """What was asked for, what was done, and every result with its figures as result.json has them."""
    record = parse_record(store.get(place.record), where=place.record)
    evaluations = [entry.name for entry in record.parse_spec().evals]
    stages = sorted(find_stages(store, place), key=lambda stage: _position(stage, evaluations))
    return {
        "schema": SCHEMA,
        "run": place.run_id,
        "name": record.name,
        "submittedAt": record.submitted_at,
        "tandem": record.tandem,
        "location": f"{store.url.rstrip('/')}/{place.prefix}",
        "inputs": {where: pin.model_dump(mode="json") for where, pin in record.inputs.items()},
        "evals": evaluations,
        "stages": [_describe_stage(store, place, stage) for stage in stages],
        "results": [_read_result(store, place, stage) for stage in stages if stage.startswith("score/")],
    }


def find_stages(store: Store, place: RunPlace) -> list[str]:
    """Every stage that has left something in the store: train, generate and score, in that order, then by name."""
    found: set[str] = set()
    for entry in store.list(place.prefix):
        match entry.key.removeprefix(place.prefix).split("/"):
            case ["train", *_]:
                found.add("train")
            case ["evals", name, "generate", shard, *_] if number := _SHARD.fullmatch(shard):
                found.add(f"generate/{name}/{int(number[1])}")
            case ["evals", name, "scores", score_id, *_]:
                found.add(f"score/{name}/{score_id}")
            case _:
                continue
    return sorted(found, key=lambda stage: _position(stage, ()))


def _position(stage: str, evaluations: Sequence[str]) -> tuple[int, int, str, int, str]:
    """Kinds in the order in which they are made, within them the evaluations of the Run file in its order."""
    kind, *rest = stage.split("/")
    name, last = rest or ("", "")
    own = (number for number, own in enumerate(evaluations) if name == own or name.startswith(f"{own}-step-"))
    shard = int(last) if kind == "generate" else 0
    return ("train", "generate", "score").index(kind), next(own, len(evaluations)), name, shard, last


def _describe_stage(store: Store, place: RunPlace, stage: str) -> dict[str, Any]:
    try:
        committed = read_commit(store, place, stage)
    except NotThere:
        committed = None
    return {
        "stage": stage,
        "committed": None if committed is None else committed.execution,
        "committedAt": None if committed is None else committed.committed_at,
        "checkpoints": [] if committed is None else sorted(committed.checkpoints),
        "executions": [
            {"execution": execution, "outcome": _read_exit(store, place, stage, execution)}
            for execution in list_executions(store, place, stage)
        ],
    }


def _read_exit(store: Store, place: RunPlace, stage: str, execution: str) -> dict[str, Any] | None:
    """How an execution ended; None if it was lost before it could say."""
    try:
        outcome = parse_outcome(store.get(f"{place.execution(stage, execution)}{EXIT}"))
    except (BadData, NotThere):
        return None
    return None if outcome is None else asdict(outcome)


def _read_result(store: Store, place: RunPlace, stage: str) -> dict[str, Any]:
    _, name, score_id = stage.split("/")
    try:
        tree = read_commit(store, place, stage).tree
    except NotThere:
        return {"eval": name, "score": score_id, "result": None}
    location = f"{store.url.rstrip('/')}/{tree.prefix}"
    try:
        result = json.loads(read_file(store, tree, "result.json"))
    except (RecursionError, ValueError):
        what, remedy = "is not JSON", "Score again with other settings, and do not use this one."
        raise BadData(Fault(where=f"{location}result.json", what=what, remedy=remedy)) from None
    return {"eval": name, "score": score_id, "location": location, "result": result}
