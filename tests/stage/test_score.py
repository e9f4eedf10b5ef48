"""What the score stage makes of the Run file."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from tandem.cli.run import record_run
from tandem.control.settings import describe_scoring, ensure_settings, list_run_stages, put_settings
from tandem.errors import BadData
from tandem.evaluate.judge import JudgeSettings
from tandem.evaluate.records import Prediction, to_jsonl
from tandem.evaluate.samples import read_eval_samples
from tandem.outcome import DONE
from tandem.record.commit import write_commit
from tandem.record.run import parse_record
from tandem.spec import EvalSpec, JudgeSpec, load_run
from tandem.stage.score import _judge_settings, describe_deviations, read_score_settings
from tandem.store import open_store, upload_tree
from tandem.store.layout import RunPlace
from tests.e2e.small import write_small_run
from tests.stage.test_generate import Desk


def test_every_field_of_the_judge_section_reaches_the_judge() -> None:
    written = {
        "kind": "openai",
        "base_url": "https://judge.example/v1",
        "model": "grader",
        "key_env": "MY_KEY",
        "protocol": "original",
        "temperature": 0.5,
        "seed": 7,
        "max_tokens": 99,
        "concurrency": 3,
        "timeout_seconds": 4.0,
        "max_retries": 2,
        "deadline_seconds": 50.0,
        "max_calls": 1000,
        "max_failures": 0.125,
    }
    assert set(written) == set(JudgeSpec.model_fields) == {field.name for field in fields(JudgeSettings)}
    by_alias = {JudgeSpec.model_fields[name].alias or name: value for name, value in written.items()}
    assert asdict(_judge_settings(JudgeSpec.model_validate(by_alias))) == written


def test_texts_are_told_from_the_originals_by_tiles_and_length_and_by_who_cut_the_images() -> None:
    original = {"tiles": {"max": 12, "rule": "perImage", "thumbnail": True}, "max_new_tokens": 1024}
    assert describe_deviations(original) == ()
    assert describe_deviations(original | {"tiles": {"max": 6, "rule": "perSample"}, "max_new_tokens": 8}) == (
        "Tiles: at most 6 perSample; the original cuts each image into up to 12.",
        "At most 8 new tokens; the original stops at 1024.",
    )
    (served,) = describe_deviations(original | {"tiles": None})
    assert served.startswith("Images: cut by the server")


def test_settings_that_are_no_longer_those_of_the_scores_id_are_refused(tmp_path: Path) -> None:
    store, place = open_store(str(tmp_path / "store")), RunPlace(namespace="local", run_id="demo-0123456789")
    settings = describe_scoring(EvalSpec(name="heldout", data="e.json"), seed=3)
    name = put_settings(store, place, "heldout", settings)
    key = place.score_settings("heldout", name)
    assert read_score_settings(store, key, name) == settings
    path = tmp_path / "store" / key
    for damaged in (path.read_bytes().replace(b"exact", b"none"), b"", b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(BadData, match="its digest is not their id"):
            read_score_settings(store, key, name)


def test_the_next_scoring_takes_similarities_from_the_store(tmp_path: Path) -> None:
    """Breaking off and scoring again is the same to it: see tests/evaluate/test_bertscore_cache.py for a kill."""
    file = write_small_run(tmp_path)
    file.write_text(file.read_text().replace("bertScore: null", "bertScore: {layer: 2}"))
    store = open_store(str(tmp_path / "store"))
    place, body = record_run(store, load_run(file), again=False)
    desk = Desk(folder=tmp_path, store=store, place=place, body=body)
    generate, score = list_run_stages(store, place, parse_record(body, where="run.json").parse_spec())
    texts = [
        Prediction(
            **dict(sample),
            text=f"### The final answer is: {sample.sample_id}",
            finish="stop",
            prompt_tokens=9,
            new_tokens=4,
            tiles=1,
        )
        for sample in read_eval_samples(tmp_path / "eval.json")
    ]
    settings = {
        "marker": "### The final answer is:",
        "preprocessing": "in-process",
        "tiles": {"max": 12, "rule": "perImage"},
        "max_new_tokens": 1024,
    }
    output = tmp_path / "generated"
    output.mkdir()
    (output / "part-00000.jsonl").write_bytes(to_jsonl(texts))
    (output / "generate.json").write_text(json.dumps({"settings": settings}))
    (output / "exit.json").write_text(DONE.to_json())
    upload_tree(store, output, place.execution(generate.name, "001"))
    write_commit(store, place, generate.name, "001", "2026-01-01T00:00:00+00:00")
    ensure_settings(store, place, parse_record(body, where="run.json").parse_spec(), score.name)
    told: list[str] = []
    assert desk.attempt(score.name, "001", told.append).exit_code == 0
    assert desk.attempt(score.name, "002", told.append).exit_code == 0
    assert [line for line in told if line.startswith("compared")] == ["compared 3/3", "compared 3/3"]
    (kept,) = store.list("cache/bertscore/")
    damaged = tmp_path / "store" / kept.key
    damaged.write_text(damaged.read_text().replace('"f1":0.', '"f1":0.111'))
    assert desk.attempt(score.name, "003").exit_code == 0
    results = [store.get(f"{place.execution(score.name, name)}result.json") for name in ("001", "002", "003")]
    assert results[0] == results[1] != results[2], "the last one shows that what is kept is what counts"
