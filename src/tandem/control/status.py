"""The status of a Run object, from what one look at the Run found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tandem.control.api import Object
from tandem.control.times import write_time
from tandem.progress import Progress
from tandem.report.figures import MAIN, Figure
from tandem.spec.status import (
    AttemptSection,
    ConditionType,
    Phase,
    ProgressSection,
    RunStatus,
)

FINAL = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)
_LONGEST = 1000
"""Characters of a message: a status is no log."""

_NOUNS = {"step": "steps", "sample": "samples", "batch": "batches", "judged": "judged", "compared": "compared"}


@dataclass(frozen=True, kw_only=True)
class View:
    """What one look at a Run found."""

    phase: Phase
    run_id: str | None = None
    attempt: AttemptSection | None = None
    progress: ProgressSection | None = None
    figures: Sequence[tuple[str, Figure]] = ()
    """Evaluation and figure."""
    folder: str | None = None
    result: str | None = None
    message: str = ""
    remedy: str = ""
    stalled: str = ""
    """Why it cannot go on by itself, in one CamelCase word; empty if it can."""


def build_status(run: Object, view: View, *, now: float) -> dict[str, Any]:
    """The status to apply; times of conditions that stay are kept."""
    generation = run["metadata"].get("generation")
    before = {one["type"]: one for one in (run.get("status") or {}).get("conditions") or ()}
    succeeded = "True" if view.phase is Phase.SUCCEEDED else "False" if view.phase in FINAL else "Unknown"
    message = view.message[:_LONGEST]
    conditions = [
        (ConditionType.FINISHED, "True" if view.phase in FINAL else "False", view.phase.value, message),
        (ConditionType.STALLED, "True" if view.stalled else "False", view.stalled or "AsExpected", message),
        (ConditionType.SUCCEEDED, succeeded, view.phase.value, message),
    ]
    status = RunStatus.model_validate(
        {
            "observedGeneration": generation,
            "runId": view.run_id,
            "phase": view.phase,
            "conditions": [
                {
                    "type": type_,
                    "status": value,
                    "reason": reason,
                    "message": text if type_ is not ConditionType.STALLED or view.stalled else "",
                    "lastTransitionTime": _since(before.get(type_.value), value, now),
                    "observedGeneration": generation,
                }
                for type_, value, reason, text in conditions
            ],
            "attempt": view.attempt,
            "progress": view.progress,
            "metrics": [{"evaluation": evaluation, **asdict(figure)} for evaluation, figure in view.figures],
            "figures": _main_figures(view.figures),
            "message": message or None,
            "remedy": view.remedy[:_LONGEST] or None,
            "folder": view.folder,
            "result": view.result,
        }
    )
    found: dict[str, Any] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found


def hold_status(run: Object, message: str, remedy: str, *, now: float) -> dict[str, Any]:
    """The status as it is but for why the Run is stalled, for one that is not looked at."""
    status = run["status"]
    generation = run["metadata"].get("generation")
    conditions = [{**one, "observedGeneration": generation} for one in status["conditions"]]
    for one in conditions:
        if one["type"] == ConditionType.STALLED.value:
            since = _since(one, "True", now)
            one.update(status="True", reason="Refused", message=message[:_LONGEST], lastTransitionTime=since)
    changed = {"observedGeneration": generation, "conditions": conditions}
    return {**status, **changed, "message": message[:_LONGEST], "remedy": remedy[:_LONGEST]}


def describe_progress(progress: Progress, first: tuple[float, Progress] | None, *, now: float) -> ProgressSection:
    """Progress with the time that the rest should take at the pace since `first` was seen."""
    eta = None
    if first is not None and first[1].unit == progress.unit and first[1].total == progress.total:
        done, passed = progress.done - first[1].done, now - first[0]
        if done > 0 and passed > 0:
            eta = round((progress.total - progress.done) * passed / done)
    noun = _NOUNS.get(progress.unit, progress.unit)
    text = f"{progress.done}/{progress.total} {noun}"
    return ProgressSection.model_validate(
        {"unit": noun, "done": progress.done, "total": progress.total, "etaSeconds": eta, "text": text}
    )


def describe_attempt(stage: str, number: int, job: str, started: str | None) -> AttemptSection:
    """An attempt, its stage without shards or digest."""
    return AttemptSection.model_validate(
        {"stage": name_stage(stage), "number": number, "job": job, "startedAt": started}
    )


def finished_at(status: Object) -> str | None:
    """When a Run finished, as its status says; None while it has not."""
    for condition in status.get("conditions") or ():
        if condition["type"] == ConditionType.FINISHED.value and condition["status"] == "True":
            return str(condition["lastTransitionTime"])
    return None


def name_stage(stage: str) -> str:
    """A stage without its shards or digest: train, generate/<evaluation>, score/<evaluation>."""
    return "/".join(stage.split("/")[:2])


def _main_figures(figures: Sequence[tuple[str, Figure]]) -> str | None:
    main = [f"{evaluation} {figure.value:.3f}" for evaluation, figure in figures if figure.name == MAIN]
    return ", ".join(main) or None


def _since(before: Object | None, value: str, now: float) -> str:
    if before is not None and before["status"] == value:
        return str(before["lastTransitionTime"])
    return write_time(now)
