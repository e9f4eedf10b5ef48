"""What the score stage makes of the Run file."""

from __future__ import annotations

from dataclasses import asdict, fields

from tandem.evaluate.judge import JudgeSettings
from tandem.spec import JudgeSpec
from tandem.stage.score import _judge_settings, describe_deviations


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
