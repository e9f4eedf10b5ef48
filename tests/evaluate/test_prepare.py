from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tandem.errors import BadData
from tandem.evaluate.prepare import PromptSettings, encode_sample, load_tiles, prepare_samples
from tandem.evaluate.records import EvalSample
from tandem.model.loading import load_tokenizer, read_model_info
from tandem.model.prompt import INTERNVL2_5

DATA = Path("eval.json")


def sample(sample_id: str, question: str, *images: str) -> EvalSample:
    return EvalSample(
        sample_id=sample_id, question=question, images=images, reference_answer="yes", answer_type="CLOSED"
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture
def settings(tiny_model: Path) -> PromptSettings:
    return PromptSettings(
        template=INTERNVL2_5,
        max_tiles=6,
        budget="per_sample",
        geometry=read_model_info(tiny_model).geometry,
        most_tokens=10_000,
    )


def test_the_measured_length_is_the_encoded_length(
    image_folder: Path, tokenizer: Any, settings: PromptSettings
) -> None:
    samples = [
        sample("none", "Is it so?"),
        sample("one", "Which is it?", "wide.png"),
        sample("two", "First <image> and then <image>: which?", "tall.png", "square.png"),
    ]
    prepared = prepare_samples(samples, data=DATA, images=image_folder, tokenizer=tokenizer, settings=settings)
    for each in prepared:
        ids = encode_sample(each, tokenizer, settings)
        assert len(ids) == each.prompt_tokens
        assert ids.count(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")) == 4 * each.tiles
        assert tokenizer.decode(ids).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_the_prompt_is_the_templates(image_folder: Path, tokenizer: Any, settings: PromptSettings) -> None:
    own = replace(settings, template=replace(INTERNVL2_5, system_message="Be brief."))
    [prepared] = prepare_samples(
        [sample("one", "Which is it?", "square.png")],
        data=DATA,
        images=image_folder,
        tokenizer=tokenizer,
        settings=own,
    )
    assert tokenizer.decode(encode_sample(prepared, tokenizer, own)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * 4}</img>\nWhich is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tiles_follow_the_rule_and_the_thumbnail(image_folder: Path, tokenizer: Any, settings: PromptSettings) -> None:
    """230 x 70 is nearest to 3 x 1 tiles, 64 x 190 to 1 x 3; six tiles for two images leave three each."""

    def count(used: PromptSettings) -> list[tuple[int, ...]]:
        samples = [sample("two", "<image><image>?", "wide.png", "tall.png"), sample("one", "?", "square.png")]
        prepared = prepare_samples(samples, data=DATA, images=image_folder, tokenizer=tokenizer, settings=used)
        assert [len(load_tiles(each, used)) for each in prepared] == [each.tiles for each in prepared]
        return [each.tiles_per_image for each in prepared]

    assert count(settings) == [(4, 4), (1,)]
    assert count(replace(settings, max_tiles=2)) == [(1, 1), (1,)]
    assert count(replace(settings, max_tiles=3, budget="per_image")) == [(4, 4), (1,)]
    assert count(replace(settings, geometry=replace(settings.geometry, thumbnail=False))) == [(3, 3), (1,)]


def test_tiles_come_in_the_order_of_the_images(image_folder: Path, tokenizer: Any, settings: PromptSettings) -> None:
    prepared = prepare_samples(
        [
            sample("ab", "<image><image>?", "wide.png", "square.png"),
            sample("ba", "<image><image>?", "square.png", "wide.png"),
        ],
        data=DATA,
        images=image_folder,
        tokenizer=tokenizer,
        settings=settings,
    )
    first, second = ([np.asarray(tile) for tile in load_tiles(each, settings)] for each in prepared)
    assert all(np.array_equal(a, b) for a, b in zip(first, [*second[1:], second[0]], strict=True))
    assert not np.array_equal(first[0], second[0])
    assert {tile.shape for tile in first} == {(56, 56, 3)}


def test_all_faults_of_all_samples_come_at_once_with_their_places(
    image_folder: Path, tmp_path: Path, tokenizer: Any, settings: PromptSettings
) -> None:
    whole = (image_folder / "wide.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good.png").write_bytes(whole)
    samples = [
        sample("gone", "?", "missing.png"),
        sample("cut", "<image><image><image>?", "cut.png", "good.png", "cut.png"),
        sample("fine", "?", "good.png"),
        sample("places", "<image>?", "good.png", "good.png"),
        sample("again", "?", "missing.png"),
        sample("long", "very " * 3000, "good.png"),
    ]
    with pytest.raises(BadData) as caught:
        prepare_samples(
            samples, data=DATA, images=tmp_path, tokenizer=tokenizer, settings=replace(settings, most_tokens=2000)
        )
    found = [str(fault) for fault in caught.value.faults]
    assert len(found) == 5
    assert found[0].startswith(f"eval.json: sample 'gone': {tmp_path / 'missing.png'}: the image does not exist")
    assert found[1].startswith(f"eval.json: sample 'cut': {tmp_path / 'cut.png'}: the image is truncated or broken")
    assert found[2].startswith("eval.json: sample 'places': 1 <image> in the human turns, but 2 image(s)")
    assert found[3].startswith("eval.json: sample 'again'")
    assert "sample 'long': the prompt has" in found[4]
    assert "room for 2000" in found[4]


def test_an_image_that_changes_its_shape_in_between_is_refused(
    tmp_path: Path, tokenizer: Any, settings: PromptSettings
) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    [prepared] = prepare_samples(
        [sample("one", "?", "a.png")], data=DATA, images=tmp_path, tokenizer=tokenizer, settings=settings
    )
    Image.new("RGB", (200, 60)).save(tmp_path / "a.png")
    with pytest.raises(BadData, match=r"sample 'one': .*makes 4 tiles now and made 1"):
        load_tiles(prepared, settings)
