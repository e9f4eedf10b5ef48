from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.errors import BadConfiguration
from tandem.evaluate.job import GenerateJob
from tandem.evaluate.settings import resolve_settings
from tandem.model.card import AdapterCard, read_card
from tandem.model.loading import ModelInfo, read_model_info
from tests.evaluate.conftest import BASE_DIGEST

OWN = {"tiles": {"max": 9, "rule": "perImage"}, "answerTemplate": "Own: {answer}"}
TRAINING: dict[str, Any] = {"tiles": {"max": 4}, "answer_template": "Trained: {answer}"}


@pytest.fixture(scope="module")
def info(tiny_model: Path) -> ModelInfo:
    return read_model_info(tiny_model)


@pytest.fixture(scope="module")
def card(tiny_adapter: Path) -> AdapterCard:
    return read_card(tiny_adapter)


def make_job(evaluation: dict[str, Any], **others: Any) -> GenerateJob:
    fields: dict[str, Any] = {
        "eval": {"name": "held-out", "data": "eval.json", **evaluation},
        "model_folder": "model",
        "data": "/data/eval.json",
        "images": "/data",
        "work": "/work",
        "base": {"source": "tiny", "digest": BASE_DIGEST},
        "seed": 1,
    }
    return GenerateJob.model_validate(fields | others)


def test_the_evaluations_own_settings_come_first(info: ModelInfo, card: AdapterCard) -> None:
    settings = resolve_settings(make_job(OWN, **TRAINING), info, card)
    assert (settings.prompt.max_tiles, settings.prompt.budget, settings.tiles_from) == (9, "per_image", "evaluation")
    assert (settings.marker, settings.answer_template_from) == ("Own:", "evaluation")
    assert settings.prompt.geometry.thumbnail


def test_then_the_adapters(info: ModelInfo, card: AdapterCard) -> None:
    settings = resolve_settings(make_job({}, **TRAINING), info, card)
    assert (settings.prompt.max_tiles, settings.prompt.budget, settings.tiles_from) == (2, "per_sample", "adapter")
    assert (settings.marker, settings.answer_template_from) == ("Answer:", "adapter")
    assert not settings.prompt.geometry.thumbnail
    assert settings.prompt.template.system_message == "Answer briefly."


def test_then_the_trainings_of_this_run_and_then_the_usual_marker(info: ModelInfo) -> None:
    settings = resolve_settings(make_job({}, **TRAINING), info, None)
    assert (settings.prompt.max_tiles, settings.tiles_from) == (4, "training")
    assert (settings.marker, settings.answer_template_from) == ("Trained:", "training")
    settings = resolve_settings(make_job({}, tiles={"max": 4}), info, None)
    assert (settings.marker, settings.answer_template_from) == ("### The final answer is:", "default")


def test_there_is_no_default_for_tiles_and_all_faults_come_at_once(info: ModelInfo, card: AdapterCard) -> None:
    with pytest.raises(BadConfiguration) as caught:
        resolve_settings(make_job({"maxNewTokens": info.text_positions}), info, None)
    assert [fault.where for fault in caught.value.faults] == [
        "evaluation 'held-out': tiles",
        "evaluation 'held-out': maxNewTokens",
    ]


def test_an_adapter_of_another_base_is_refused(info: ModelInfo, card: AdapterCard) -> None:
    other = {"source": "other", "digest": "sha256:" + "f" * 64}
    with pytest.raises(BadConfiguration, match=r"was trained on tiny .* and the base model is other"):
        resolve_settings(make_job({}, base=other, adapter_folder="/adapter"), info, card)


def test_new_tokens_take_their_room_from_the_prompt(info: ModelInfo) -> None:
    settings = resolve_settings(make_job({"maxNewTokens": 100}, **TRAINING), info, None)
    assert settings.prompt.most_tokens == info.text_positions - 100


def test_a_shard_that_does_not_exist_is_refused() -> None:
    assert make_job({"shards": 3}, shard=2).shard == 2
    with pytest.raises(ValidationError, match="there is no shard 3 of 3"):
        make_job({"shards": 3}, shard=3)
