"""What the score stage makes of the Run file."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from tandem.control.settings import describe_scoring, put_settings
from tandem.errors import BadData
from tandem.evaluate.judge import JudgeSettings
from tandem.spec import EvalSpec, JudgeSpec
from tandem.stage.score import _judge_settings, describe_deviations, read_score_settings
from tandem.store import open_store
from tandem.store.layout import RunPlace


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
