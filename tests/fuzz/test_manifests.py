"""Any manifest is the digests of a tree that can be written here, or it is corrupt."""

from __future__ import annotations

import pytest
from hypothesis import given

from tandem.store.keys import check_key
from tandem.store.manifest import SCHEMA, decode_manifest, encode_manifest
from tests.fuzz.damage import damaged_json, fuzzing, read_or_faults, write_json

pytestmark = pytest.mark.timeout(120)

MANIFEST = {
    "files": {
        "adapter/adapter_model.safetensors": {"sha256": "ab" * 32, "size": 4711},
        "exit.json": {"sha256": "01" * 32, "size": 0},
        "logs/rank-0.log": {"sha256": "23" * 32, "size": 2**40},
    },
    "schema": SCHEMA,
}


def test_the_whole_manifest_is_read() -> None:
    assert len(decode_manifest(write_json(MANIFEST), where="m")) == 3


@fuzzing(1000)
@given(damaged_json(MANIFEST))
def test_a_damaged_manifest_is_a_tree_or_faults(body: bytes) -> None:
    found = read_or_faults(lambda: decode_manifest(body, where="runs/r/manifest.json"))
    if found is not None:
        for path in found:
            check_key(path, where="m")
        assert decode_manifest(encode_manifest(found), where="m") == found
