"""Folders of which one file at a time is damaged, and mended again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.damage import damaged_bytes, damaged_json

_HEAD = 4_000
"""Bytes of a large file that are damaged: headers, and the first of what they describe."""


@contextmanager
def damaged(folder: Path, name: str, draw: st.DataObject) -> Iterator[None]:
    """A file of the folder damaged in its values or bytes, or gone, while the block runs."""
    path = folder / name
    whole = path.read_bytes()
    body = draw.draw(_damage(whole, is_json=name.endswith(".json")), label=name)
    try:
        if body is None:
            path.unlink()
        else:
            path.write_bytes(body)
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(whole)


def _damage(whole: bytes, *, is_json: bool) -> st.SearchStrategy[bytes | None]:
    rest = whole[_HEAD:]
    in_bytes = damaged_bytes(whole[:_HEAD]).map(lambda head: head + rest)
    lost = damaged_bytes(whole) if len(whole) <= _HEAD else st.integers(0, len(whole)).map(lambda end: whole[:end])
    in_values = damaged_json(json.loads(whole)) if is_json else _damaged_header(whole)
    return in_values | in_values | in_bytes | lost | st.none()


def _damaged_header(whole: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file whose header is damaged, its length said rightly or not."""
    length = int.from_bytes(whole[:8], "little")
    if length > len(whole):
        return damaged_bytes(whole)
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def write(body: bytes) -> bytes:
        return len(body).to_bytes(8, "little") + body + rest

    lengths = st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_001, len(whole)])
    return damaged_json(header).map(write) | lengths.map(lambda number: number.to_bytes(8, "little") + whole[8:])
