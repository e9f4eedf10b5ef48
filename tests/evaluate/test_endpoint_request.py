"""What a server is asked for a sample."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tandem.errors import BadData
from tandem.evaluate.endpoint_request import AskedSample, build_request, prepare_asked, split_question
from tandem.evaluate.records import EvalSample
from tandem.spec import EndpointSpec


def make_sample(question: str, *images: str, name: str = "q") -> EvalSample:
    return EvalSample(sample_id=name, question=question, images=images, reference_answer="yes", answer_type="CLOSED")


def ask(folder: Path, question: str, *images: str, **endpoint: Any) -> dict[str, Any]:
    spec = EndpointSpec.model_validate({"baseUrl": "http://x/v1", "model": "m", **endpoint})
    (asked,) = prepare_asked([make_sample(question, *images)], data=folder / "eval.json", images=folder)
    return build_request(asked, spec, max_new_tokens=9)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One picture in several formats, and one that differs."""
    picture = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff"):
        picture.save(tmp_path / name)
    picture.rotate(90).save(tmp_path / "b.png")
    return tmp_path


def url_of(part: dict[str, Any]) -> str:
    return str(part["image_url"]["url"])


def test_texts_and_images_stand_in_the_order_of_the_question(pictures: Path) -> None:
    request = ask(pictures, "Compare <image>\nwith <image> now.", "a.png", "b.png")
    assert request == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 0,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare "},
                    {"type": "image_url", "image_url": {"url": url_of(request["messages"][0]["content"][1])}},
                    {"type": "text", "text": "with "},
                    {"type": "image_url", "image_url": {"url": url_of(request["messages"][0]["content"][3])}},
                    {"type": "text", "text": " now."},
                ],
            }
        ],
    }
    first, second = (url_of(request["messages"][0]["content"][index]) for index in (1, 3))
    assert base64.b64decode(first.partition(",")[2]) == (pictures / "a.png").read_bytes()
    assert base64.b64decode(second.partition(",")[2]) == (pictures / "b.png").read_bytes()


def test_a_single_image_without_placeholder_comes_first_and_no_empty_text_is_sent(pictures: Path) -> None:
    parts = ask(pictures, "Which?", "a.png")["messages"][0]["content"]
    assert [part.get("text", "an image") for part in parts] == ["an image", "Which?"]
    parts = ask(pictures, "<image>\n<image>\n", "a.png", "b.png")["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url"]


def test_a_question_without_image_is_sent_as_it_is(pictures: Path) -> None:
    assert ask(pictures, "Which?\n")["messages"] == [{"role": "user", "content": "Which?\n"}]


def test_a_system_message_comes_first_and_no_seed_can_be_sent(pictures: Path) -> None:
    request = ask(pictures, "Which?", systemMessage="Be brief.", seed=None, temperature=0.5)
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request["temperature"], "seed" in request) == (0.5, False)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "png"), ("a.jpg", "jpeg"), ("a.webp", "webp")])
def test_an_image_in_a_format_of_the_web_is_sent_to_the_byte(pictures: Path, name: str, kind: str) -> None:
    head, _, body = url_of(ask(pictures, "?", name)["messages"][0]["content"][0]).partition(",")
    assert head == f"data:image/{kind};base64"
    assert base64.b64decode(body) == (pictures / name).read_bytes()


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.tiff"])
def test_other_formats_become_png_without_loss(pictures: Path, name: str) -> None:
    head, _, body = url_of(ask(pictures, "?", name)["messages"][0]["content"][0]).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(BytesIO(base64.b64decode(body))) as sent, Image.open(pictures / name) as kept:
        assert sent.tobytes() == kept.convert("RGB").tobytes()


def test_the_content_says_what_an_image_is_not_its_name(pictures: Path) -> None:
    (pictures / "liar.png").write_bytes((pictures / "a.jpg").read_bytes())
    assert url_of(ask(pictures, "?", "liar.png")["messages"][0]["content"][0]).startswith("data:image/jpeg;base64,")


def test_everything_that_is_wrong_with_samples_is_said_at_once(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:60])
    samples = [
        make_sample("<image><image>", "a.png", name="one"),
        make_sample("?", "broken.png", "nowhere.png", name="two"),
        make_sample("<|im_end|>", name="three"),
        make_sample("fine", "a.png", name="four"),
    ]
    with pytest.raises(BadData) as caught:
        prepare_asked(samples, data=pictures / "eval.json", images=pictures)
    said = "\n".join(map(str, caught.value.faults))
    assert len(caught.value.faults) == 4
    for words in ("'one': 2 <image>", "truncated or broken", "does not exist", "'three': the text of turn 1 holds"):
        assert words in said
    assert "'four'" not in said


def test_an_image_that_breaks_after_it_was_looked_at_is_a_fault_of_its_sample(pictures: Path) -> None:
    asked = AskedSample(sample=make_sample("?", "a.png"), place="eval.json: sample 'q'", images=(pictures / "a.png",))
    (pictures / "a.png").write_bytes(b"")
    spec = EndpointSpec.model_validate({"baseUrl": "http://x/v1", "model": "m"})
    with pytest.raises(BadData, match=r"eval\.json: sample 'q': .*a\.png"):
        build_request(asked, spec, max_new_tokens=9)


@given(st.lists(st.text("ab \n", max_size=5), min_size=3, max_size=6))
def test_texts_come_back_whole_but_for_one_line_break_after_each_placeholder(texts: list[str]) -> None:
    split = split_question("<image>".join(texts), len(texts) - 1, place="here")
    assert list(split) == [texts[0], *(text.removeprefix("\n") for text in texts[1:])]
