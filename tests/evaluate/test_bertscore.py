"""BERTScore against values of the unchanged bert-score on transformers 4.57.6 (tests/golden/chiron)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.evaluate.bertscore import BertScore
from tandem.evaluate.encoder import BertScoreSettings, hub_is_away
from tests.evaluate.tiny_roberta import LAYERS, write_tiny_roberta

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/chiron/bertscore.json").read_text(encoding="utf-8")
)
ANSWERS, REFERENCES = zip(*GOLDEN["pairs"], strict=True)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_roberta(tmp_path_factory.mktemp("tiny-roberta"))


@pytest.fixture(scope="module")
def minilm() -> BertScore:
    return BertScore(BertScoreSettings())


def test_the_offline_encoder_gives_the_golden_values(minilm: BertScore) -> None:
    scores = [similarity.f1 for similarity in minilm.score(ANSWERS, REFERENCES)]
    assert scores == pytest.approx(GOLDEN["minilm_layer_5"], abs=2e-6)


def test_a_byte_level_tokenizer_keeps_the_leading_blank(tiny_folder: Path) -> None:
    scorer = BertScore(BertScoreSettings(model=str(tiny_folder), layer=2))
    scores = [similarity.f1 for similarity in scorer.score(ANSWERS, REFERENCES)]
    assert scores == pytest.approx(GOLDEN["tiny_roberta_layer_2"], abs=2e-6)


def test_a_tokenizer_without_a_length_does_not_overflow(tmp_path: Path) -> None:
    folder = write_tiny_roberta(tmp_path / "tiny")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    scorer = BertScore(BertScoreSettings(model=str(folder), layer=2))
    scores = [similarity.f1 for similarity in scorer.score(ANSWERS, REFERENCES)]
    assert scores == pytest.approx(GOLDEN["tiny_roberta_layer_2"], abs=2e-6)


def test_neither_the_batch_nor_the_company_changes_a_score(minilm: BertScore) -> None:
    together = minilm.score(ANSWERS, REFERENCES)
    alone = [minilm.score([answer], [reference])[0] for answer, reference in GOLDEN["pairs"]]
    assert [one.f1 for one in alone] == pytest.approx([one.f1 for one in together], abs=3e-6)
    assert minilm.score([], []) == []


def test_scores_say_which_model_made_them(minilm: BertScore) -> None:
    identity = minilm.identity
    assert (identity.model, identity.layer) == ("sentence-transformers/all-MiniLM-L6-v2", 5)
    assert identity.hash.startswith("sentence-transformers/all-MiniLM-L6-v2_L5_no-idf_version=")
    assert len(identity.revision.removeprefix("sha256:")) == 64
    assert identity.bert_score_version.startswith("0.3.")


def test_without_a_baseline_nothing_is_rescaled(minilm: BertScore) -> None:
    assert minilm.identity.baseline is None
    assert [one.rescaled for one in minilm.score(["a cyst"], ["a cyst"])] == [None]


def test_scores_are_rescaled_by_the_baseline_that_bert_score_ships(tiny_folder: Path) -> None:
    # The tiny model stands in for roberta-large; its baseline at layer 2 is 0.69969934 (bert-score 0.3.13).
    scorer = BertScore(BertScoreSettings(model=str(tiny_folder), name="roberta-large", layer=2))
    assert scorer.identity.baseline == pytest.approx(0.69969934)
    scores = scorer.score(["Osteochondroma", "", "The aorta"], ["Osteochondroma", "aorta", "aorta"])
    assert [one.rescaled for one in scores] == pytest.approx(
        [1.0, 0.0, (0.8730702 - 0.69969934) / (1 - 0.69969934)], abs=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/nowhere/roberta"}, "cannot be loaded"),
        ({"layer": LAYERS + 1}, f"has {LAYERS} layers, {LAYERS + 1} was asked for"),
        ({}, "knows no best layer"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_clear_line(
    tiny_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadConfiguration, match=message) as caught:
        BertScore(BertScoreSettings(**({"model": str(tiny_folder)} | settings)))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_roberta(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadConfiguration, match="cannot be loaded"):
        BertScore(BertScoreSettings(model=str(folder), layer=2))


def test_a_hub_that_is_away_differs_from_a_model_that_is_not_there() -> None:
    away = OSError("cannot connect")
    away.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert hub_is_away(away)
    assert not hub_is_away(OSError("no such model"))
