from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.spec.dump import dump_yaml
from tandem.spec.yaml12 import MAX_INTEGER, parse_yaml

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff\ufffe\uffff"), max_size=30)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300).filter(lambda x: x != int(x))
    | TEXTS
    | st.sampled_from(
        ["4e-3", "1_000", "0x10", "on", "y", "null", "~", "2026-01-01", "", "a: b", "- a", "#", "'", "<<"]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(bool), inner, max_size=4)
)


@given(st.dictionaries(TEXTS.filter(bool), VALUES, min_size=1, max_size=5))
def test_what_is_written_reads_back_as_the_same_value(value: dict[str, object]) -> None:
    assert parse_yaml(dump_yaml(value)).value == value


def test_a_text_that_looks_like_a_number_is_quoted_and_others_are_not() -> None:
    assert dump_yaml({"rate": "4e-3", "name": "demo", "lr": 4e-05}) == 'rate: "4e-3"\nname: demo\nlr: 4.0e-05\n'
