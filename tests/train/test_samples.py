import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tandem.errors import BadData
from tandem.model.images import probe_image
from tandem.model.prompt import INTERNVL2_5, Turn
from tandem.model.tiles import TileGeometry
from tandem.train.annotations import SampleRef, read_samples
from tandem.train.meta import read_meta
from tandem.train.samples import (
    IGNORED,
    Example,
    Length,
    ReadingRules,
    TooLong,
    build_example,
    degrade,
    measure_length,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "internvl"
SAMPLES = json.loads((GOLDEN / "samples.json").read_bytes())
TILES = json.loads((GOLDEN / "tiles.json").read_bytes())
RULES = ReadingRules(max_tiles=6, max_length=8192, geometry=TileGeometry(**SAMPLES["geometry"]))

REFUSED = {
    "two placeholders, one image name": "2 <image> in the human turns, but 1",
    "fewer placeholders than images": "1 <image> in the human turns, but 2",
    "more placeholders than images": "3 <image> in the human turns, but 2",
    "placeholder without image": "1 <image> in the human turns, but 0",
    "system turn in the middle": "turn 2 is a system turn",
}
TOO_LONG = {"too long, image cut", "too long, no label left"}
BETTER = {
    "placeholder in the second human turn, one image name",
    "system turn, one image name with placeholder",
    "system turn, one image name without placeholder",
    "list of one image without placeholder",
}
"""Where the original fails or trains on a literal `<image>`, as the golden values' README lists."""
EQUAL = [name for name in SAMPLES["cases"] if name not in {*REFUSED, *TOO_LONG, *BETTER}]


def load_tokenizer(*, bos: bool = False) -> Any:
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(GOLDEN / "tokenizer.json"), bos_token="<s>", pad_token="<|endoftext|>", add_bos_token=bos
    )
    return tokenizer


def read(item: dict[str, Any], folder: Path, *, augment: bool = False) -> SampleRef:
    """Read one sample through a meta file, as training does."""
    (folder / "train.jsonl").write_text(json.dumps(item) + "\n")
    entry = {
        "root": str(GOLDEN / "images"),
        "annotation": "train.jsonl",
        "data_augment": augment,
        "repeat_time": 1,
    }
    (folder / "meta.json").write_text(json.dumps({"golden": entry}))
    (sample,) = read_samples(read_meta(folder / "meta.json"))
    return sample


def build(name: str, folder: Path, *, cut_tail: bool = True) -> Example | TooLong:
    case = SAMPLES["cases"][name]
    rules = replace(RULES, max_tiles=case["max_tiles"], max_length=case["max_length"], cut_tail=cut_tail)
    return build_example(read(case["item"], folder), load_tokenizer(bos=case["bos"]), rules=rules, rng=chance())


def chance(seed: int = 0) -> random.Random:
    return random.Random(seed)  # noqa: S311  augmentation needs no secrecy


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_most_golden_samples_are_to_be_equal() -> None:
    assert len(EQUAL) >= 29
    assert not any("error" in SAMPLES["cases"][name]["original"] for name in EQUAL)


@pytest.mark.parametrize("name", EQUAL)
def test_ids_labels_and_pixels_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    built, original = build(name, tmp_path), SAMPLES["cases"][name]["original"]
    assert isinstance(built, Example)
    assert built.input_ids == original["input_ids"]
    assert built.labels == original["labels"]
    assert built.tiles == len(built.pixels) == original["tiles"]
    assert (sha256(built.pixels.numpy().tobytes()) if built.tiles else None) == original["pixels"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_whose_placeholders_or_turns_do_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=REFUSED[name]) as raised:
        build(name, tmp_path)
    assert raised.value.faults[0].where == f"{tmp_path}/train.jsonl:1"


@pytest.mark.parametrize("name", sorted(TOO_LONG))
def test_a_sample_that_would_lose_an_image_token_or_every_label_is_too_long(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    assert isinstance(built, TooLong)
    assert built.length.tokens > built.max_length == SAMPLES["cases"][name]["max_length"]
    assert built.place == f"{tmp_path}/train.jsonl:1"


def test_a_system_turn_is_kept_clean_of_the_literal_placeholder_that_the_original_writes(tmp_path: Path) -> None:
    name = "system turn, one image name with placeholder"
    built, original = build(name, tmp_path), SAMPLES["cases"][name]["original"]
    assert isinstance(built, Example)
    tokenizer = load_tokenizer()
    literal = tokenizer("<image>\n")["input_ids"]
    header = len(tokenizer("<|im_start|>system\n")["input_ids"])
    assert original["input_ids"] == [*built.input_ids[:header], *literal, *built.input_ids[header:]]
    other = build("system turn, one image name without placeholder", tmp_path)
    assert isinstance(other, Example)
    assert tokenizer.decode(other.input_ids).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_an_image_stays_in_the_later_turn_where_it_was_put(tmp_path: Path) -> None:
    built = build("placeholder in the second human turn, one image name", tmp_path)
    assert isinstance(built, Example)
    text = load_tokenizer().decode(built.input_ids)
    assert "user\nLook.<|im_end|>" in text
    assert "user\n<img>" in text
    assert "<image>" not in text


def test_a_sample_over_the_length_is_too_long_unless_its_tail_may_be_cut(tmp_path: Path) -> None:
    refused = build("too long, image kept", tmp_path, cut_tail=False)
    cut = build("too long, image kept", tmp_path, cut_tail=True)
    assert isinstance(refused, TooLong)
    assert isinstance(cut, Example)
    assert cut.tokens_cut == refused.length.tokens - 300 > 0
    assert isinstance(build("exactly the length", tmp_path, cut_tail=False), Example)


def test_no_label_is_lost_where_a_text_is_full_of_the_padding_token(tmp_path: Path) -> None:
    answer = "<|endoftext|>" * 3 + "!"
    item = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]}
    tokenizer = load_tokenizer()
    built = build_example(read(item, tmp_path), tokenizer, rules=RULES, rng=chance())
    assert isinstance(built, Example)
    learnt = [label for label in built.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == f"{answer}<|im_end|>"


texts = st.text(st.characters(exclude_characters="<", codec="utf-8"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
    st.lists(st.sampled_from(["wide.png", "tall.png", "small.png", "photo.jpg"]), max_size=4),
    st.integers(1, 12),
)
def test_a_length_is_measured_without_pixels_and_only_answers_with_their_ends_are_learnt(
    tmp_path: Path, pairs: list[tuple[str, str]], images: list[str], max_tiles: int
) -> None:
    """Answers begin with a letter: a newline may become one token with the header's, and is masked with it."""
    turns = [
        {"from": sender, "value": text}
        for question, answer in pairs
        for sender, text in (("human", question), ("gpt", f"A{answer}"))
    ]
    turns[0]["value"] = "<image>" * len(images) + turns[0]["value"]
    sample = read({"image": images, "conversations": turns}, tmp_path)
    tokenizer, rules = load_tokenizer(), replace(RULES, max_tiles=max_tiles)
    built = build_example(sample, tokenizer, rules=rules, rng=chance())
    assert isinstance(built, Example)
    context = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert measure_length(sample, tokenizer, [probe_image(path) for path in sample.images], rules=rules) == Length(
        tokens=len(built.input_ids),
        image_tokens=built.input_ids.count(context),
        labelled=sum(label != IGNORED for label in built.labels),
    )
    assert built.input_ids.count(context) == built.tiles * 4 == len(built.pixels) * 4
    assert all(label in (IGNORED, token) for label, token in zip(built.labels, built.input_ids, strict=True))
    learnt = [token for token in built.labels if token != IGNORED]
    assert learnt == tokenizer("".join(f"A{answer}<|im_end|>" for _, answer in pairs))["input_ids"]


def test_a_dataset_may_override_the_tiles(tmp_path: Path) -> None:
    item = SAMPLES["cases"]["one image with a budget of one"]["item"]
    sample = replace(read(item, tmp_path), max_tiles=1)
    built = build_example(sample, load_tokenizer(), rules=RULES, rng=chance())
    assert isinstance(built, Example)
    assert built.input_ids == SAMPLES["cases"]["one image with a budget of one"]["original"]["input_ids"]


def test_a_budget_per_image_is_not_shared(tmp_path: Path) -> None:
    item = SAMPLES["cases"]["several images"]["item"]
    rules = replace(RULES, budget="per_image")
    built = build_example(read(item, tmp_path), load_tokenizer(), rules=rules, rng=chance())
    assert isinstance(built, Example)
    assert built.tiles_per_image == (3, 4, 1)


@pytest.mark.parametrize("quality", TILES["degraded"]["by_quality"])
def test_a_tile_is_degraded_as_in_the_original(quality: str) -> None:
    tile = Image.open(GOLDEN / "images" / TILES["degraded"]["image"]).convert("RGB")
    assert sha256(degrade(tile, int(quality)).tobytes()) == TILES["degraded"]["by_quality"][quality]


def test_augmentation_changes_pixels_alone_and_only_by_the_given_randomness(tmp_path: Path) -> None:
    item = SAMPLES["cases"]["one image without placeholder"]["item"]
    plain, augmented = (read(item, tmp_path, augment=augment) for augment in (False, True))

    def pixels(sample: SampleRef, seed: int) -> bytes:
        built = build_example(sample, load_tokenizer(), rules=RULES, rng=chance(seed))
        assert isinstance(built, Example)
        assert built.input_ids == SAMPLES["cases"]["one image without placeholder"]["original"]["input_ids"]
        return built.pixels.numpy().tobytes()

    assert pixels(plain, 1) == pixels(plain, 2)
    assert pixels(augmented, 1) == pixels(augmented, 1)
    assert len({pixels(plain, 1), pixels(augmented, 1), pixels(augmented, 2)}) == 3


def test_an_image_that_cannot_be_opened_names_the_sample_that_asks_for_it(tmp_path: Path) -> None:
    sample = read({**SAMPLES["cases"]["one image without placeholder"]["item"], "image": "none.png"}, tmp_path)
    with pytest.raises(BadData, match=r"train\.jsonl:1: .*none\.png: the image does not exist"):
        build_example(sample, load_tokenizer(), rules=RULES, rng=chance())


def test_turns_that_were_never_checked_are_checked_when_built(tmp_path: Path) -> None:
    item = SAMPLES["cases"]["text only"]["item"]
    sample = replace(read(item, tmp_path), turns=(Turn(role="user", text="<image>"),))
    with pytest.raises(BadData, match="1 <image>"):
        build_example(sample, load_tokenizer(), rules=RULES, rng=chance())
    assert RULES.template == INTERNVL2_5
