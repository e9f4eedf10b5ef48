from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.errors import BadData
from tandem.model.card import AdapterCard, CardBase, CardTiles, choose_template, read_card, write_card
from tandem.model.prompt import INTERNVL2_5
from tandem.spec import TilesSpec


@pytest.fixture
def card() -> AdapterCard:
    return AdapterCard(
        tiles=CardTiles(max=6, rule="perSample", thumbnail=True),
        template="internvl2_5",
        system_message="你好。",
        answer_template="### The final answer is: {answer}",
        base=CardBase(source="OpenGVLab/InternVL3-2B-hf", digest="sha256:" + "a" * 64),
        seed=42,
    )


def test_what_was_written_is_read(card: AdapterCard, tmp_path: Path) -> None:
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_the_file_names_its_schema_first_and_is_the_same_each_time(card: AdapterCard, tmp_path: Path) -> None:
    write_card(tmp_path, card)
    first = (tmp_path / "tandem.json").read_bytes()
    write_card(tmp_path, card)
    assert (tmp_path / "tandem.json").read_bytes() == first
    assert first.startswith(b'{\n  "schema": "tandem.dev/adapter/v1",\n  "tiles": {')
    assert "你好。" in first.decode()


def test_its_tiles_are_the_run_files_tiles() -> None:
    for spec in (TilesSpec(max=6), TilesSpec.model_validate({"max": 12, "rule": "perImage", "thumbnail": False})):
        tiles = CardTiles.model_validate(spec.model_dump(mode="json", by_alias=True))
        assert TilesSpec.model_validate(tiles.model_dump()) == spec
    assert set(CardTiles.model_fields) == set(TilesSpec.model_fields)


def test_a_missing_card_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"tandem.json: the adapter's card cannot be read \(No such file"):
        read_card(tmp_path)


def test_all_faults_of_a_card_come_at_once(card: AdapterCard, tmp_path: Path) -> None:
    body = card.model_dump(mode="json", by_alias=True)
    body["schema"] = "tandem.dev/adapter/v2"
    body["tiles"]["max"] = 0
    body["colour"] = "red"
    del body["seed"]
    (tmp_path / "tandem.json").write_text(json.dumps(body))
    with pytest.raises(BadData) as caught:
        read_card(tmp_path)
    places = {fault.where.removeprefix(f"{tmp_path / 'tandem.json'}: ") for fault in caught.value.faults}
    assert places == {"schema", "tiles.max", "colour", "seed"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_card_is_refused(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "tandem.json").write_bytes(body)
    with pytest.raises(BadData, match="the whole file"):
        read_card(tmp_path)


def test_the_template_is_the_cards_with_its_own_system_message(card: AdapterCard) -> None:
    template = choose_template(card)
    assert template.name == "internvl2_5"
    assert template.system_message == "你好。"
    assert choose_template(None) == INTERNVL2_5


def test_an_unknown_template_is_refused(card: AdapterCard) -> None:
    with pytest.raises(BadData, match="'internvl9' is not one of internvl2_5"):
        choose_template(card.model_copy(update={"template": "internvl9"}))
