from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.spec import canonical_json, run_id, sha256_hex, spec_digest

names = st.text("abcdefgh", min_size=1, max_size=6)
scalars = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
specs = st.dictionaries(names, values, min_size=1, max_size=5)


def reverse_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reverse_keys(value[key]) for key in reversed(value)}
    return [reverse_keys(item) for item in value] if isinstance(value, list) else value


def test_canonical_json_is_that_of_rfc_8785() -> None:
    # From RFC 8785, section 3.2.2 and 3.2.3: numbers as in ECMAScript, keys sorted by UTF-16 code units.
    value = {"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001], "literals": [None, True]}
    assert canonical_json(value) == b'{"literals":[null,true],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


def test_sha256_is_that_of_fips_180() -> None:
    # NIST's example for "abc".
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(specs)
def test_the_order_of_keys_does_not_change_the_id(spec: dict[str, Any]) -> None:
    assert run_id("demo", reverse_keys(spec)) == run_id("demo", spec)


@given(specs, st.sampled_from(["Active", "Suspended", "Cancelled"]))
def test_desired_does_not_change_the_id(spec: dict[str, Any], desired: str) -> None:
    assert run_id("demo", {**spec, "desired": desired}) == run_id("demo", spec)


@given(specs, specs)
def test_any_other_difference_changes_the_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = canonical_json(one) == canonical_json(other)
    assert (spec_digest(one) == spec_digest(other)) == same


@given(specs, st.data())
def test_changing_any_one_value_changes_the_digest(spec: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(spec)
    key = data.draw(st.sampled_from(sorted(spec)))
    changed[key] = [spec[key]]
    assert spec_digest(changed) != spec_digest(spec)


def test_desired_deeper_in_the_spec_counts() -> None:
    assert spec_digest({"a": {"desired": "Active"}}) != spec_digest({"a": {}})


@pytest.mark.parametrize(("one", "other"), [({"a": 1}, {"a": "1"}), ({"a": 1}, {"a": True}), ({"a": None}, {})])
def test_values_of_other_types_are_other_runs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert spec_digest(one) != spec_digest(other)


def test_numbers_that_json_cannot_tell_apart_are_the_same_run() -> None:
    assert spec_digest({"a": 1.0, "b": 4e-5}) == spec_digest({"a": 1, "b": 0.00004})


def test_the_id_is_the_name_ten_hex_digits_and_the_repetition() -> None:
    digest = spec_digest({"a": 1})
    assert run_id("demo", {"a": 1}) == f"demo-{digest[:10]}"
    assert run_id("demo", {"a": 1}, again=2) == f"demo-{digest[:10]}-2"
    assert run_id("other", {"a": 1}) != run_id("demo", {"a": 1})
