from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.evaluate.records import EvalSample, Prediction, read_jsonl, to_jsonl

text = st.text(max_size=12)
predictions = st.lists(
    st.builds(
        Prediction,
        sample_id=text,
        case_id=st.none() | text,
        question=text,
        images=st.lists(text, max_size=3).map(tuple),
        reference_answer=text,
        reference_reasoning=st.none() | text,
        answer_type=st.sampled_from(["OPEN", "CLOSED"]),
        text=text,
        finish=st.sampled_from(["stop", "length"]),
        prompt_tokens=st.integers(0, 9),
        new_tokens=st.integers(0, 9),
        tiles=st.integers(0, 9),
    ),
    max_size=6,
    unique_by=lambda prediction: prediction.sample_id,
)


@settings(deadline=None)
@given(predictions)
def test_what_is_written_is_read_again(written: list[Prediction]) -> None:
    body = to_jsonl(written)
    assert read_jsonl(Prediction, body, where="p") == written
    assert body.count(b"\n") == len(written)


SAMPLE = EvalSample(sample_id="a", question="q", images=(), reference_answer="r", answer_type="OPEN")


def test_every_fault_of_every_line_is_said_with_its_place() -> None:
    line = to_jsonl([SAMPLE])
    body = line + b'{"sample_id": 1}\n\n' + line.replace(b'"OPEN"', b'"open","more":1') + line + b"{\xff\n"
    with pytest.raises(BadData) as caught:
        read_jsonl(EvalSample, body, where="part-00000.jsonl")
    places = [fault.where for fault in caught.value.faults]
    assert places[0] == "part-00000.jsonl line 2, sample_id"
    assert {"part-00000.jsonl line 4, answer_type", "part-00000.jsonl line 4, more"} <= set(places)
    assert "part-00000.jsonl line 5" in places
    assert places[-1] == "part-00000.jsonl line 6"
    assert "already used at line 1" in str(caught.value)
