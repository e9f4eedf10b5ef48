"""Keys: what is accepted can be a file below a folder, and nothing else is accepted."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.store.keys import INCOMING, check_key, check_prefix, join

ANYTHING = st.text() | st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "ü", "\\", "\n"])).map("/".join)


def refusal(key: str) -> str | None:
    try:
        check_key(key, where="test")
    except BadData as error:
        return str(error)
    return None


def accepted(key: str) -> bool:
    return refusal(key) is None


@given(ANYTHING)
def test_a_refusal_is_one_short_plain_line(key: str) -> None:
    line = refusal(key) or ""
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 300


@given(ANYTHING)
def test_an_accepted_key_is_a_normal_path_that_stays_below(key: str) -> None:
    if accepted(key):
        path = PurePosixPath("/root") / key
        assert str(path) == f"/root/{key}"
        assert ".." not in path.parts
        assert key.isprintable() or all(ord(character) >= 0xA0 for character in key if not character.isprintable())


@given(st.lists(st.text("abcXYZ012-_.ü漢 ", min_size=1, max_size=20), min_size=1, max_size=5))
def test_ordinary_paths_are_accepted(segments: list[str]) -> None:
    expected = "." not in segments and ".." not in segments
    assert accepted("/".join(segments)) == expected


@given(ANYTHING, st.integers(min_value=0, max_value=30))
def test_every_beginning_of_a_key_is_a_prefix(key: str, end: int) -> None:
    if accepted(key):
        check_prefix(key[:end], where="test")


@pytest.mark.parametrize("prefix", ["/", "/a", "../", "a/../b", "a//b/", "a\0"])
def test_no_key_begins_with_such_a_prefix(prefix: str) -> None:
    with pytest.raises(BadData):
        check_prefix(prefix, where="test")


def test_the_place_of_unfinished_writes_is_reserved() -> None:
    assert not accepted(f"{INCOMING}/x")
    assert accepted(f"a/{INCOMING}")


def test_prefixes_join_with_one_slash() -> None:
    assert [join(prefix, "x") for prefix in ("", "a", "a/", "a/b/")] == ["x", "a/x", "a/x", "a/b/x"]
