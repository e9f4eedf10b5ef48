from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import Fault


@given(st.text(), st.text(), st.text())
def test_a_fault_is_one_line_that_can_be_printed_whatever_it_is_made_of(where: str, what: str, remedy: str) -> None:
    line = str(Fault(where=where, what=what, remedy=remedy))
    assert len(line.splitlines()) == 1
    line.encode()


@pytest.mark.parametrize("sign", ["\n", "\r", "\v", "\x1c", "\x85", "\u2028", "\x1b", "\0", "\u202e", "\ud800"])
def test_what_would_break_a_line_is_spelt_out(sign: str) -> None:
    fault = Fault(where=f"a{sign}b", what="is wrong", remedy="Mend it")
    assert fault.where == f"a{ascii(sign)[1:-1]}b"


def test_what_people_write_stays_as_it_is() -> None:
    text = "Größe \N{GRINNING FACE} C:\\new … 日本"
    assert Fault(where=text, what=text, remedy=text).what == text


def test_a_text_of_megabytes_leaves_its_beginning_and_its_end() -> None:
    fault = Fault(where="run.yaml:1", what="start" + "x" * 10**7 + "end", remedy="Shorten it")
    assert len(str(fault)) < 2_100
    assert fault.what.startswith("startxxx")
    assert fault.what.endswith("xxxend")
