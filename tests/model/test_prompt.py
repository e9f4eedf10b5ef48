import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tandem.errors import BadConfiguration, BadData
from tandem.model.prompt import (
    INTERNVL2_5,
    TEMPLATES,
    Role,
    Template,
    Turn,
    encode_prompt,
    encode_turns,
    expand_images,
    place_images,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "internvl"
PROMPTS = json.loads((GOLDEN / "prompts.json").read_bytes())

texts = st.text(st.characters(exclude_characters="<", codec="utf-8"), max_size=12)


def load_tokenizer(*, bos: bool = False) -> Any:
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(GOLDEN / "tokenizer.json"), bos_token="<s>", add_bos_token=bos
    )
    return tokenizer


def talk(*texts: str, first: Role = "user") -> list[Turn]:
    """Make turns of human and model by turns."""
    roles: list[Role] = ["user", "assistant"] if first == "user" else ["system", "user", "assistant"]
    return [Turn(role=roles[index % len(roles)], text=text) for index, text in enumerate(texts)]


@pytest.mark.parametrize("name", PROMPTS["cases"])
def test_the_prompt_for_generation_is_that_of_the_original(name: str) -> None:
    case = PROMPTS["cases"][name]
    system = [Turn(role="system", text=case["system"])] if case["system"] else []
    told = [text for pair in case["history"] for text in pair]
    ids = encode_prompt(
        load_tokenizer(bos=case["bos"]),
        [*system, *talk(*told, case["question"])],
        case["tiles"],
        tokens_per_tile=PROMPTS["tokens_per_tile"],
    )
    assert ids == case["input_ids"]


def test_the_default_system_message_is_that_of_the_original() -> None:
    assert INTERNVL2_5.system_message == PROMPTS["system_message"]
    assert TEMPLATES["internvl2_5"] is INTERNVL2_5


def test_a_prompt_ends_with_the_header_of_the_answer() -> None:
    tokenizer = load_tokenizer()
    ids = encode_prompt(tokenizer, talk("Hello?"), [], tokens_per_tile=256)
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n")


def test_a_single_image_without_placeholder_goes_in_front_of_the_first_human_turn() -> None:
    assert place_images(talk("Be brief.", "What?", first="system"), 1)[1].text == "<image>\nWhat?"
    assert place_images(talk("What? <image>"), 1)[0].text == "What? <image>"
    assert place_images(talk("Look.", "Yes?", "<image>"), 1)[0].text == "Look."


@given(st.lists(texts, min_size=1, max_size=5), st.integers(0, 6))
def test_placing_gives_one_placeholder_an_image_or_a_fault(parts: list[str], images: int) -> None:
    """Parts joined by placeholders hold one less than there are parts; ours must be exactly as many as images."""
    turns = talk("<image>".join(parts), "An <image>, you say", "And?")
    found = len(parts) - 1
    if found == images or (found == 0 and images == 1):
        placed = place_images(turns, images)
        assert sum(turn.text.count("<image>") for turn in placed if turn.role == "user") == images
        assert place_images(placed, images) == placed
        assert [turn.role for turn in placed] == [turn.role for turn in turns]
        assert "".join(turn.text for turn in placed).replace("<image>\n", "", found == 0).startswith(parts[0])
    else:
        with pytest.raises(BadData, match=f"{found} <image> in the human turns, but {images} image"):
            place_images(turns, images)


@given(st.lists(st.tuples(texts, st.integers(0, 9)), min_size=2, max_size=5))
def test_each_image_gets_its_own_number_of_tokens_in_its_own_place(parts: list[tuple[str, int]]) -> None:
    texts, numbers = [text for text, _ in parts], [number for _, number in parts[1:]]
    half = len(texts) // 2
    turns = talk("<image>".join(texts[:half]), "ok", "<image>".join(["", *texts[half:]]))
    expanded = expand_images(turns, numbers, template=INTERNVL2_5)
    images = [f"<img>{'<IMG_CONTEXT>' * number}</img>" for number in numbers]
    expected = texts[0] + "".join(image + text for image, text in zip(images, texts[1:], strict=True))
    assert expanded[0].text + expanded[2].text == expected


def test_every_fault_of_a_conversation_is_told_at_once_with_its_place() -> None:
    turns = [
        Turn(role="assistant", text="</img> and <|im_end|>"),
        Turn(role="system", text="see <image>"),
    ]
    with pytest.raises(BadData) as raised:
        place_images(turns, 2, place="train.jsonl:3")
    assert {fault.where for fault in raised.value.faults} == {"train.jsonl:3"}
    assert [fault.what for fault in raised.value.faults] == [
        "the conversation has no human turn",
        "the text of turn 1 holds the control token <|im_end|>",
        "the text of turn 1 holds the control token </img>",
        "turn 2 is a system turn",
        "the system turn holds <image>",
        "0 <image> in the human turns, but 2 image(s)",
    ]


def test_a_tokenizer_that_splits_the_image_token_is_refused() -> None:
    strange = replace(INTERNVL2_5, image_context="<PATCH>")
    with pytest.raises(BadConfiguration, match="<PATCH>"):
        encode_turns(load_tokenizer(), talk("What?"), [4], template=strange)


def test_a_template_survives_its_file() -> None:
    assert Template(**json.loads(json.dumps(INTERNVL2_5.to_dict()))) == INTERNVL2_5


@given(st.lists(texts, min_size=1, max_size=4))
def test_each_turn_is_tokenized_alone_and_knows_the_length_of_its_header(parts: list[str]) -> None:
    """Texts begin with a letter: a newline may become one token with the header's."""
    tokenizer = load_tokenizer()
    encoded = encode_turns(tokenizer, talk(*[f"A{part}" for part in parts]), [])
    for turn, text in zip(encoded[1:], parts, strict=True):
        header = tokenizer.decode(turn.ids[: turn.header])
        assert header == f"<|im_start|>{turn.role}\n"
        assert tokenizer(f"{header}A{text}<|im_end|>\n")["input_ids"] == turn.ids
