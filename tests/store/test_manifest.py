"""Manifests from anywhere: either right or Corrupt, never a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import Fault
from tandem.store.contract import Corrupt, FileDigest
from tandem.store.manifest import SCHEMA, decode_manifest, encode_manifest, tree_digest

HEX = "0123456789abcdef"
SHA256 = st.text(HEX, min_size=64, max_size=64)
NAME = st.text("abcü漢 .-_0", min_size=1, max_size=12).filter(lambda name: name not in {".", ".."})
DIGEST = st.builds(FileDigest, size=st.integers(0, 2**53 - 1), sha256=SHA256)
TREE = st.dictionaries(NAME, DIGEST, max_size=5).map(lambda files: {f"folder/{k}": v for k, v in files.items()})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
GOOD = {"size": 1, "sha256": "a" * 64}


def manifest(files: object, **more: object) -> bytes:
    return json.dumps({"schema": SCHEMA, "files": files, **more}).encode()


@given(TREE)
def test_a_manifest_is_read_as_it_was_written(tree: dict[str, FileDigest]) -> None:
    assert decode_manifest(encode_manifest(tree), where="x") == tree


@given(TREE)
def test_order_does_not_matter(tree: dict[str, FileDigest]) -> None:
    assert tree_digest(dict(reversed(tree.items()))) == tree_digest(tree)


def test_its_bytes_and_its_digest_stay_the_same_for_ever() -> None:
    tree = {"b": FileDigest(size=2, sha256="b" * 64), "a": FileDigest(size=1, sha256="a" * 64)}
    # Written by hand from RFC 8785 (sorted keys, no spaces); the digest is sha256sum's of these bytes.
    expected = (
        '{"files":{"a":{"sha256":"' + "a" * 64 + '","size":1},"b":{"sha256":"' + "b" * 64 + '","size":2}},'
        '"schema":"tandem.dev/manifest/v1"}'
    )
    assert encode_manifest(tree).decode() == expected
    assert tree_digest(tree) == "sha256:76d37d15dea0af5e8a774e6d5f96183841523db1ac3c3be79b1955fca07aa873"


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(manifest))
def test_garbage_is_corrupt(body: bytes) -> None:
    faults = faults_of(body)
    assert faults or decode_manifest(body, where="x") == {}
    assert all(fault.where == "x" and fault.what.isprintable() for fault in faults)


def faults_of(body: bytes) -> tuple[Fault, ...]:
    try:
        decode_manifest(body, where="x")
    except Corrupt as error:
        return error.faults
    return ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        b'{"schema":"tandem.dev/manifest/v1","files":' + b'{"a":' * 100_000,
        b"\xff\xfe",
        manifest({}, more=1),
        json.dumps({"files": {}}).encode(),
        json.dumps({"schema": "tandem.dev/manifest/v2", "files": {}}).encode(),
        manifest([]),
        manifest({"a": {"size": 1}}),
        manifest({"a": GOOD | {"more": 1}}),
        manifest({"a": GOOD | {"size": -1}}),
        manifest({"a": GOOD | {"size": 1.0}}),
        manifest({"a": GOOD | {"size": True}}),
        manifest({"a": GOOD | {"size": "1"}}),
        manifest({"a": GOOD | {"size": 2**53}}),
        manifest({"a": GOOD}).replace(b'"size": 1', b'"size": ' + b"9" * 10_000),
        manifest({"a": GOOD | {"sha256": "A" * 64}}),
        manifest({"a": GOOD | {"sha256": "a" * 64 + "\n"}}),
        manifest({"a": GOOD | {"sha256": "a" * 63}}),
        manifest({"manifest.json": GOOD}),
        manifest({"a": GOOD, "a/b": GOOD}),
        manifest({"\ud800": GOOD}),
        *(manifest({path: GOOD}) for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\0b"]),
    ],
)
def test_a_manifest_that_is_wrong_in_one_place_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="not a manifest"):
        decode_manifest(body, where="x")


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(Corrupt) as error:
        decode_manifest(manifest({"../a": GOOD, "/b": GOOD, "c": GOOD}), where="x")
    assert len(error.value.faults) == 2
