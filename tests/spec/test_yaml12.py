from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.spec.yaml12 import MAX_DEPTH, MAX_INTEGER, MAX_VALUES, NotReadable, parse_yaml


def read(text: str) -> Any:
    return parse_yaml(f"key: {text}\n").value["key"]


# What kubernetes-sigs/yaml makes of plain scalars: goyaml.v2/resolve.go at 742f5e6.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-5", 4e-5),
        ("4.0e-5", 4e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5", -1.5),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("010", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b101", 5),
        ("-0b11", -3),
        ("08", 8.0),
        ("yes", True),
        ("Yes", True),
        ("ON", True),
        ("y", True),
        ("n", False),
        ("off", False),
        ("No", False),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("yEs", "yEs"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1e", "1e"),
        ("0x", "0x"),
        ("_1", "_1"),
        ("1.2.3", "1.2.3"),
        ("<<", "<<"),
        ("'010'", "010"),
        ('"yes"', "yes"),
        ("''", ""),
    ],
)
def test_a_scalar_means_what_it_means_to_kubernetes(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_text_in_any_quotes_or_block_stays_text() -> None:
    assert parse_yaml("a: '1'\nb: \"2\"\nc: |\n  3\nd: >\n  4\n").value == {"a": "1", "b": "2", "c": "3\n", "d": "4\n"}


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.INF", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    with pytest.raises(NotReadable, match=r"no number|more than a computer"):
        read(text)


def test_integers_are_kept_up_to_what_json_keeps_exact() -> None:
    assert read(str(MAX_INTEGER)) == MAX_INTEGER
    for text in (str(MAX_INTEGER + 1), str(-MAX_INTEGER - 1), "0x" + "f" * 300):
        with pytest.raises(NotReadable, match="2\\^53"):
            read(text)


def test_a_number_longer_than_python_converts_is_refused_in_our_words() -> None:
    with pytest.raises(NotReadable, match="number of 5000 characters"):
        read("9" * 5000)


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!str", "!!binary", "!!set", "!custom", "!", "!!int"])
def test_tags_are_refused(tag: str) -> None:
    with pytest.raises(NotReadable, match="tags"):
        read(f"{tag} 5")


def test_aliases_are_refused_so_that_they_cannot_explode() -> None:
    with pytest.raises(NotReadable, match=r"alias \*a") as caught:
        parse_yaml("a: &a [1, 2]\nb: *a\n")
    assert caught.value.line == 2


def test_a_repeated_key_is_refused_at_its_second_line() -> None:
    with pytest.raises(NotReadable, match="'a' is given twice") as caught:
        parse_yaml("a: 1\nb: 2\n'a': 3\n")
    assert caught.value.line == 3


@pytest.mark.parametrize("key", ["1", "on", "~", "[x]", "{x: y}", "1.5"])
def test_a_key_that_is_not_a_text_is_refused(key: str) -> None:
    with pytest.raises(NotReadable, match="not a text"):
        parse_yaml(f"? {key}\n: 1\n")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack(opening: str) -> None:
    with pytest.raises(NotReadable, match=f"more than {MAX_DEPTH} deep"):
        parse_yaml(opening * 5000)


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH).value is not None


def test_too_many_values_are_refused() -> None:
    with pytest.raises(NotReadable, match=f"more than {MAX_VALUES} values"):
        parse_yaml("[" + "1," * (MAX_VALUES + 1) + "]")


def test_a_nul_byte_is_refused_at_its_line() -> None:
    with pytest.raises(NotReadable, match="U\\+0000") as caught:
        parse_yaml("a: 1\nb: \0\n")
    assert caught.value.line == 2


def test_an_escaped_control_character_is_refused() -> None:
    with pytest.raises(NotReadable, match="control character U\\+0000"):
        read(r'"a\0b"')


def test_surrogate_pairs_of_json_become_their_character_and_halves_are_refused() -> None:
    assert read(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"
    with pytest.raises(NotReadable, match="surrogate"):
        read(r'"\ud83d"')


def test_an_escape_beyond_unicode_is_refused_at_its_line() -> None:
    with pytest.raises(NotReadable, match="out of range") as caught:
        parse_yaml('a: 1\nb: "\\UFFFFFFFF"\n')
    assert caught.value.line == 2


def test_a_second_document_is_refused() -> None:
    with pytest.raises(NotReadable, match="another document"):
        parse_yaml("a: 1\n---\nb: 2\n")


def test_a_syntax_error_has_its_line() -> None:
    with pytest.raises(NotReadable, match="not valid YAML") as caught:
        parse_yaml("a: 1\nb: [1, 2\nc: 3\n")
    assert caught.value.line == 3


def test_the_line_of_a_value_is_known_and_of_a_missing_one_that_of_its_parent() -> None:
    document = parse_yaml("a:\n  b:\n    - x\n    - c: 1\n")
    assert document.line_of(("a", "b", 1, "c")) == 4
    assert document.line_of(("a", "b", 1, "missing")) == 4
    assert document.line_of(("a", "missing")) == 1
    assert document.line_of(()) == 1


@given(st.integers(-MAX_INTEGER, MAX_INTEGER))
def test_every_integer_survives(number: int) -> None:
    assert read(str(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_survives(number: float) -> None:
    found = read(repr(number))
    assert isinstance(found, float)
    assert math.copysign(1, found) == math.copysign(1, number)
    assert found == number
