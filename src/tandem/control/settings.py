"""How a Run's texts are scored: settings written into the store before scoring, named by their digest."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tandem.control.stages import TRAIN, Stage, list_stages
from tandem.record.commit import read_commit
from tandem.record.evaluation import find_evaluation
from tandem.spec import BertScoreSpec, EvalSpec, JudgeSpec, RunSpec, canonical_json, sha256_hex
from tandem.store import AlreadyThere, NotThere, Store
from tandem.store.layout import RunPlace


def describe_scoring(
    evaluation: EvalSpec, seed: int, *, judge: JudgeSpec | None = None, bert_score: BertScoreSpec | None = None
) -> dict[str, Any]:
    """Everything that scores depend on beside the texts; `judge` and `bert_score` take the place of the Run's."""
    encoder = bert_score or evaluation.bert_score
    return {
        "schema": "tandem.dev/score-settings/v1",
        "judge": (judge or evaluation.judge).model_dump(mode="json", by_alias=True),
        "bertScore": encoder.model_dump(mode="json", by_alias=True) if encoder else None,
        "answerTemplate": evaluation.answer_template,
        "seed": seed,
    }


def score_id(settings: dict[str, Any]) -> str:
    """Ten hex digits of the settings' digest: scoring with other settings is another folder."""
    return sha256_hex(canonical_json(settings))[:10]


def put_settings(store: Store, place: RunPlace, evaluation: str, settings: dict[str, Any]) -> str:
    """Write the settings, once, and return their id."""
    name = score_id(settings)
    with suppress(AlreadyThere):
        store.put_if_absent(place.score_settings(evaluation, name), canonical_json(settings))
    return name


def list_run_stages(store: Store, place: RunPlace, spec: RunSpec) -> tuple[Stage, ...]:
    """The stages of a Run as far as they are known now."""
    checkpoints = read_checkpoints(store, place)
    ids = {entry.name: score_id(describe_scoring(entry, spec.seed)) for entry in spec.evals}
    return list_stages(spec, checkpoints, ids)


def ensure_settings(store: Store, place: RunPlace, spec: RunSpec, stage: str) -> None:
    """Write the settings of a score stage of the Run before it starts; other settings are there already."""
    _, name, wanted = stage.split("/")
    entry, _ = find_evaluation(spec, name)
    settings = describe_scoring(entry, spec.seed)
    if score_id(settings) == wanted:
        put_settings(store, place, name, settings)


def read_checkpoints(store: Store, place: RunPlace) -> tuple[int, ...] | None:
    """Steps of the checkpoints that training committed; None while it has not."""
    try:
        return tuple(sorted(read_commit(store, place, TRAIN).checkpoints))
    except NotThere:
        return None
