"""The score stage: judge and compare the committed texts of one evaluation; it needs no GPU and no model weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem.errors import BadData, Fault
from tandem.evaluate.bertscore import BertScore
from tandem.evaluate.bertscore_cache import KeptScores
from tandem.evaluate.encoder import BertScoreSettings
from tandem.evaluate.judge import JudgeSettings
from tandem.evaluate.judge_cache import JudgeCache
from tandem.evaluate.judge_openai import judge_identity, open_judge
from tandem.evaluate.parts import is_part
from tandem.evaluate.records import Prediction, read_jsonl, to_jsonl
from tandem.evaluate.result import write_result
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.score import Scoring, score_predictions
from tandem.evaluate.shards import merge_shards, require_equal_settings
from tandem.evaluate.statistics import StatisticsSettings
from tandem.inputs.references import PACKAGED_ENCODERS
from tandem.model.libraries import load_libraries
from tandem.outcome import DONE, Outcome
from tandem.record.commit import Tree, read_commit, read_file, read_files, read_tree
from tandem.record.evaluation import find_evaluation
from tandem.spec import BertScoreSpec, EvalSpec, JudgeSpec, find_marker, sha256_hex
from tandem.stage.context import Context
from tandem.store import Store
from tandem.store.files import typed_os_errors

ORIGINAL_TILES = {"max": 12, "rule": "perImage"}
ORIGINAL_NEW_TOKENS = 1024


def run_score_stage(context: Context, say: Callable[[str], None]) -> Outcome:
    """Score one evaluation into the output folder: samples.jsonl, result.json and the settings used."""
    _, name, score_id = context.facts.stage.split("/")
    entry, _ = find_evaluation(context.spec, name)
    place = context.facts.place
    settings = read_score_settings(context.store, place.score_settings(name, score_id), score_id)
    data = context.use_input(f"spec.evals[{entry.name}].data")
    predictions, generation = _read_predictions(context, name, entry, data)
    judge = _judge_settings(JudgeSpec.model_validate(settings["judge"]))
    scorer = _open_scorer(context, entry, settings["bertScore"], say)
    say(f"{len(predictions)} texts; {judge_identity(judge).line}")
    lines, result = score_predictions(
        predictions,
        Scoring(
            run=place.run_id,
            eval=name,
            marker=_marker(settings, generation),
            judge=judge_identity(judge),
            concurrency=judge.concurrency,
            max_failures=judge.max_failures,
            statistics=StatisticsSettings(seed=settings["seed"]),
            preprocessing=generation["preprocessing"],
            generation_deviations=describe_deviations(generation),
        ),
        judge=open_judge(judge, environment=os.environ, cache=JudgeCache(context.store)),
        scorer=scorer,
        report=lambda done, total: say(f"judged {done}/{total}"),
    )
    with typed_os_errors(str(context.output)):
        (context.output / "samples.jsonl").write_bytes(to_jsonl(lines))
        (context.output / "result.json").write_bytes(write_result(result))
    return DONE


def read_score_settings(store: Store, key: str, score_id: str) -> dict[str, Any]:
    """The settings that the scores' id is the digest of. Raises BadData if they are not those any more."""
    body = store.get(key)
    if not sha256_hex(body).startswith(score_id):
        what = "is not what these scores were asked for with (its digest is not their id)"
        remedy = "Someone wrote into the store by hand: restore it, or score with other settings."
        raise BadData(Fault(where=key, what=what, remedy=remedy))
    settings: dict[str, Any] = json.loads(body)
    return settings


def _read_predictions(
    context: Context, name: str, entry: EvalSpec, data: Path
) -> tuple[list[Prediction], dict[str, Any]]:
    """The texts of all shards in the evaluation's order, and how they were generated."""
    shards: list[list[Prediction]] = []
    settings: list[dict[str, Any]] = []
    for shard in range(entry.shards):
        tree = read_commit(context.store, context.facts.place, f"generate/{name}/{shard}").tree
        shards.append(read_texts(context.store, tree))
        settings.append(json.loads(read_file(context.store, tree, "generate.json"))["settings"])
    require_equal_settings(settings)
    samples = read_eval_samples(data)[: context.spec.limit]
    return merge_shards(shards, samples), settings[0]


def read_texts(store: Store, tree: Tree) -> list[Prediction]:
    """What a committed generate stage wrote, part by part. Raises Corrupt and BadData for what is not that any more."""
    parts = sorted(name for name in read_tree(store, tree) if is_part(name))
    return [
        prediction
        for part, body in read_files(store, tree, parts).items()
        for prediction in read_jsonl(Prediction, body, where=f"{tree.prefix}{part}")
    ]


def _marker(settings: dict[str, Any], generation: dict[str, Any]) -> str:
    template = settings["answerTemplate"]
    if template is None:
        return str(generation["marker"])
    return find_marker(template)


def _judge_settings(spec: JudgeSpec) -> JudgeSettings:
    return JudgeSettings(
        kind=spec.kind.value,
        base_url=spec.base_url,
        model=spec.model,
        key_env=spec.key_env,
        protocol=spec.protocol.value,
        temperature=spec.temperature,
        seed=spec.seed,
        max_tokens=spec.max_tokens,
        concurrency=spec.concurrency,
        timeout_seconds=spec.timeout_seconds,
        max_retries=spec.max_retries,
        deadline_seconds=spec.deadline_seconds,
        max_calls=spec.max_calls,
        max_failures=spec.max_failures,
    )


def _open_scorer(
    context: Context, entry: EvalSpec, settings: dict[str, Any] | None, say: Callable[[str], None]
) -> KeptScores | None:
    if settings is None:
        return None
    load_libraries()
    spec = BertScoreSpec.model_validate(settings)
    source = spec.model
    if spec.model not in PACKAGED_ENCODERS:
        if entry.bert_score is not None and entry.bert_score.model == spec.model:
            source = str(context.use_input(f"spec.evals[{entry.name}].bertScore.model"))
        else:
            found = context.resolver.resolve(spec.model, spec.revision)
            source = str(found) if found is not None else spec.model
    loaded = BertScore(
        BertScoreSettings(
            model=source,
            name=None if source == spec.model else spec.model,
            revision=spec.revision,
            layer=spec.layer,
            batch_size=spec.batch_size,
        )
    )
    return KeptScores(scorer=loaded, store=context.store, batch_size=spec.batch_size, say=say)


def describe_deviations(generation: dict[str, Any]) -> tuple[str, ...]:
    """Where texts were generated otherwise than by the original evaluation script, one sentence each."""
    found: list[str] = []
    tiles = generation["tiles"]
    if tiles is None:
        found.append("Images: cut by the server that generated the texts; the original cuts each into up to 12.")
    elif {key: tiles[key] for key in ORIGINAL_TILES} != ORIGINAL_TILES:
        found.append(f"Tiles: at most {tiles['max']} {tiles['rule']}; the original cuts each image into up to 12.")
    if generation["max_new_tokens"] != ORIGINAL_NEW_TOKENS:
        found.append(f"At most {generation['max_new_tokens']} new tokens; the original stops at 1024.")
    return tuple(found)
