from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.evaluate.records import MOST_FAULTS
from tandem.evaluate.samples import parse_eval_samples, read_eval_samples

GOOD: dict[str, Any] = {
    "id": 1,
    "img_name": ["a/0.png", "a/1.png"],
    "question": "Which one?",
    "reasoning": "The first is round.",
    "answer": "Yes.",
    "answer_type": "OPEN",
}


def faults(body: bytes) -> list[str]:
    with pytest.raises(BadData) as caught:
        parse_eval_samples(body, where="f.json")
    return [str(fault) for fault in caught.value.faults]


def as_list(*samples: object) -> bytes:
    return json.dumps(samples).encode()


def test_the_originals_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "eval_data.json"
    path.write_bytes(b"\xef\xbb\xbf" + as_list(GOOD, GOOD | {"id": "b", "img_name": "x.png", "case_id": 7}))
    first, second = read_eval_samples(path)
    assert (first.sample_id, first.case_id, first.images) == ("1", None, ("a/0.png", "a/1.png"))
    assert (first.reference_answer, first.reference_reasoning) == ("Yes.", "The first is round.")
    assert (second.sample_id, second.case_id, second.images) == ("b", "7", ("x.png",))


def test_json_lines_hold_the_same_objects() -> None:
    lines = json.dumps(GOOD) + "\r\n\n" + json.dumps(GOOD | {"id": 2}) + "\n"
    assert parse_eval_samples(lines.encode(), where="f") == parse_eval_samples(
        as_list(GOOD, GOOD | {"id": 2}), where="f"
    )


def test_the_answer_type_is_as_the_file_says_even_for_a_yes() -> None:
    assert parse_eval_samples(as_list(GOOD), where="f")[0].answer_type == "OPEN"
    closed = parse_eval_samples(as_list(GOOD | {"answer_type": " closed"}), where="f")
    assert closed[0].answer_type == "CLOSED"


def test_reasoning_and_images_may_be_absent() -> None:
    sample = {key: value for key, value in GOOD.items() if key not in {"reasoning", "img_name"}}
    read = parse_eval_samples(as_list(sample), where="f")[0]
    assert (read.reference_reasoning, read.images) == (None, ())


def test_all_faults_come_at_once_each_with_its_place() -> None:
    found = faults(
        as_list(
            GOOD,
            GOOD | {"id": "1"},
            GOOD | {"id": 3, "answer": " ", "answer_type": "MAYBE"},
            GOOD | {"id": True, "img_name": ["../up.png", 4]},
            "text",
        )
    )
    assert [line.split(":")[0] for line in found] == [
        "f.json index 1",
        "f.json index 2, answer",
        "f.json index 2, answer_type",
        "f.json index 3, id",
        "f.json index 3, img_name",
        "f.json index 3, img_name",
        "f.json index 4",
    ]
    assert "'1' was already used at index 0" in found[0]
    assert "leaves the image folder" in found[4]


@pytest.mark.parametrize("key", ["image", "images"])
def test_a_question_whose_images_stand_under_another_key_is_not_asked_without_them(key: str) -> None:
    (found,) = faults(as_list({**GOOD, "img_name": None, key: ["a.png"]}))
    assert f"img_name: missing, but there is {key!r}. Rename that key to img_name" in found


def test_a_missing_answer_type_is_not_guessed() -> None:
    (found,) = faults(as_list({key: value for key, value in GOOD.items() if key != "answer_type"}))
    assert "missing" in found
    assert "not guessed" in found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"id": ',
        b"null",
        b"[null, 3]",
        b"9" * 5000,
        as_list(GOOD | {"answer": "\ud800"}),
        as_list(GOOD | {"img_name": "\ud800"}),
        as_list(GOOD | {"img_name": {}}),
        as_list(GOOD | {"img_name": "/etc/passwd"}),
    ],
)
def test_a_file_that_is_none_is_one_clear_line(body: bytes) -> None:
    found = faults(body)
    assert all("\n" not in line and len(line) < 400 for line in found)


def test_a_thousand_faults_are_counted_not_shown() -> None:
    found = faults(as_list(*[1] * 1000))
    assert len(found) == MOST_FAULTS + 1
    assert f"{1000 - MOST_FAULTS} more" in found[-1]


def test_a_missing_file_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        read_eval_samples(tmp_path / "none.json")


def samples_or_faults(body: bytes) -> object:
    try:
        return parse_eval_samples(body, where="f")
    except BadData as error:
        return error.faults


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=6),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_bytes_there_are_samples_or_faults(body: bytes) -> None:
    assert samples_or_faults(body)
