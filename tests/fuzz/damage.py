"""Valid documents, damaged in every way that files get damaged, and what a reader may do with one: its value or faults.

Strategies draw little, so that a thousand examples of a reader take a second or two; what they found is repeated
beside them as explicit examples.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tandem.errors import Fault, TandemError

Value = TypeVar("Value")

LONGEST_LINE = 8_000
"""Characters of a fault: a line that people read, whatever stands in the file."""

_RAW = "\ue000"
"""Stands around JSON that json.dumps would not write."""
_RAW_PIECES = (
    "1e999",
    "-1e999",
    "9" * 5_000,
    "-" + "9" * 400,
    "1" + "0" * 400 + ".5",
    "NaN",
    "Infinity",
    "-Infinity",
    '"\\ud800"',
    '"\\udcff\\ud83d"',
    '"\\u0000"',
    '"a\\nb\\u2028c\\u001b[31m"',
    "[" * 300 + "]" * 300,
    "[" * 100_000,
    '{"a":' * 2_000 + "1" + "}" * 2_000,
    "0123",
    "+1",
    "1.",
    "nul",
    "'a'",
    "",
)
_KEYS = ("", "x", "a\nb", "\x00", "\u2028", "\x1b[2J", "k" * 20_000, "__class__", "0", "-1", "schema", "id")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    10**30,
    -(10**30),
    0.0,
    -0.0,
    0.5,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "a\nb",
    "\r\n",
    "\x1b[31m",
    "\x85\u2028",
    "\ufeff",
    "../../etc/passwd",
    "/dev/zero",
    "~nobody-of-this-name/x",
    "s3://",
    "file:///",
    "5",
    "true",
    "null",
    "x" * 300,
    "x" * 70_000,
    "\U0001f600" * 50,
    "%s{}{0.__class__}$(id)",
    [],
    {},
    [None],
    [[]],
    [[[[[[[[[[]]]]]]]]]],
    {"": {}},
    {"a\nb": 1},
    list(range(300)),
)
_BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\n",
    b"\r\n",
    b"\r",
    b"\x0c",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\x1b",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"\\",
    b"\\u",
    b"/*",
    b"0" * 100,
    b"[" * 2_000,
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x00" * 64,
)

values: st.SearchStrategy[Any] = (
    st.sampled_from(_VALUES)
    | st.sampled_from([f"{_RAW}{number}{_RAW}" for number in range(len(_RAW_PIECES))])
    | st.text(max_size=8)
    | st.integers()
    | st.floats()
).map(copy.deepcopy)


def fuzzing(examples: int) -> settings:
    """So many examples, the same ones each time; FUZZ_TIMES=20 in the environment takes 20 times as many new ones."""
    times = int(os.environ.get("FUZZ_TIMES", "1"))
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * times,
        derandomize=times == 1,
        deadline=None,
        database=None,
        suppress_health_check=slow,
    )


def damaged_json(document: Any, *, indent: int | None = None) -> st.SearchStrategy[bytes]:
    """The document as JSON with some of its values, keys or bytes damaged."""
    return _damaged_value(document).map(lambda value: write_json(value, indent=indent)) | damaged_bytes(
        write_json(document, indent=indent)
    )


def damaged_lines(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """JSON lines of which one is damaged in its values, or any in their bytes."""
    whole = [write_json(document) for document in documents]

    @st.composite
    def replaced(draw: st.DrawFn) -> bytes:
        index = draw(st.integers(0, len(documents) - 1))
        line = write_json(draw(_damaged_value(documents[index])))
        return b"\n".join([*whole[:index], line, *whole[index + 1 :], b""])

    return replaced() | damaged_bytes(b"\n".join([*whole, b""]))


def write_json(value: Any, *, indent: int | None = None) -> bytes:
    """Any value as JSON, also with what no JSON writer would write; lone surrogates as escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    for number, piece in enumerate(_RAW_PIECES):
        text = text.replace(f'"{_RAW}{number}{_RAW}"', piece)
    return "".join(
        f"\\u{ord(sign):04x}" if 0xD800 <= ord(sign) < 0xE000 else sign for sign in text.replace(f"{_RAW}again", "")
    ).encode()


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes cut off, with some taken out, put in, flipped or repeated; now and then any other bytes."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(whole)))
        match draw(st.integers(0, 8)):
            case 0:
                whole = whole[:place]
            case 1:
                whole = whole[place:]
            case 2 | 3:
                whole = whole[:place] + draw(st.sampled_from(_BYTES)) + whole[place:]
            case 4 | 5:
                end = place + draw(st.integers(1, 40))
                whole = whole[:place] + draw(st.sampled_from(_BYTES) | st.binary(max_size=8)) + whole[end:]
            case 6 if place < len(whole):
                flipped = whole[place] ^ (1 << draw(st.integers(0, 7)))
                whole = whole[:place] + bytes([flipped]) + whole[place + 1 :]
            case 7:
                end = place + draw(st.integers(1, 200))
                whole = whole[:end] + whole[place:]
            case _:
                whole = draw(
                    st.just(whole.replace(b"\n", b"\r\n"))
                    | st.just(b"\xef\xbb\xbf" + whole)
                    | st.just(whole.decode("latin-1").encode("utf-16"))
                    | st.binary(max_size=60)
                )
    return whole


@st.composite
def _damaged_value(draw: st.DrawFn, document: Any) -> Any:
    """One to three places of the document changed: another value, a key gone, new, twice or renamed, an item twice."""
    whole = {"": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(whole)))
        match draw(st.integers(0, 7)):
            case 0 if holder is not whole:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw(st.sampled_from(_KEYS) | st.text(max_size=4))] = draw(values)
            case 2 if isinstance(holder, dict) and holder is not whole:
                holder[f"{_RAW}again{key}"] = draw(st.just(holder[key]) | values)
            case 3 if isinstance(holder, dict) and holder is not whole:
                holder[draw(st.sampled_from(_KEYS))] = holder.pop(key)
            case 4:
                holder[key] = draw(st.just([holder[key]]) | st.just({"x": holder[key]}))
            case 5 if isinstance(holder, list):
                holder.append(holder[key])
            case 6 if isinstance(holder[key], str):
                holder[key] = holder[key] + draw(st.sampled_from(["\n", "\x00", "\ud800", " ", "/", "x" * 5_000]))
            case _:
                holder[key] = draw(values)
    return whole.get("")


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in list(keys)[:40]:
        found.append((value, key))
        if len(found) < 400:
            found += _places(value[key])
    return found


def read_or_faults(read: Callable[[], Value]) -> Value | None:
    """The reader's value, or None where it raised faults, each one clear line; any other exception passes."""
    try:
        return read()
    except TandemError as error:
        expect_clear(error)
        return None


def expect_clear(error: TandemError) -> None:
    """The error is one that the command line ends with, and has clear faults."""
    assert error.exit_code in (65, 75, 78)
    assert error.faults
    expect_clear_faults(error.faults)


def expect_clear_faults(faults: Sequence[Fault]) -> None:
    """Every fault is one line that names a place and a remedy, and can be printed anywhere."""
    for fault in faults:
        assert fault.where.strip()
        assert fault.what.strip()
        assert fault.remedy.strip()
        line = str(fault)
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line
        assert len(line) < LONGEST_LINE
        line.encode("utf-8")
