"""What is kept of attempts in a cluster: each once, read back as it was, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.outcome import Outcome
from tandem.record.attempt import (
    AttemptEnd,
    AttemptStart,
    PodEnd,
    write_attempt_end,
    write_attempt_log,
    write_attempt_start,
)
from tandem.record.document import parse_document, to_bytes
from tandem.store import Corrupt, Store, open_store
from tandem.store.layout import RunPlace
from tests.fuzz.damage import damaged_json, fuzzing, read_or_faults
from tests.record.racing import race

PLACE = RunPlace(namespace="team", run_id="demo-0123456789")
AT = "2026-01-01T00:00:00+00:00"

texts = st.text(max_size=12)
outcomes = st.builds(
    Outcome, exit_code=st.integers(0, 255), code=texts.filter(bool), message=st.text(max_size=40), remedy=texts
)
pods = st.builds(
    PodEnd,
    name=texts,
    uid=texts,
    node=st.none() | texts,
    image_id=st.none() | texts,
    exit_code=st.none() | st.integers(-1, 2**31),
    reason=st.none() | texts,
    outcome=outcomes,
    started_at=st.none() | texts,
    ended_at=st.none() | texts,
    log=st.none() | texts,
)
fields: dict[str, st.SearchStrategy[Any]] = {
    "stage": texts,
    "number": st.integers(1, 2**53),
    "job": texts,
    "job_uid": texts,
    "run_uid": texts,
}
starts = st.builds(AttemptStart, **fields, created_at=texts)
ends = st.builds(
    AttemptEnd,
    **fields,
    pods=st.lists(pods, max_size=3).map(tuple),
    outcome=outcomes,
    started_at=texts,
    ended_at=texts,
)


def start(job: str = "demo-0123456789-t-1") -> AttemptStart:
    return AttemptStart(stage="train", number=1, job=job, job_uid="u", run_uid="r", created_at=AT)


def end(message: str = "") -> AttemptEnd:
    outcome = Outcome(exit_code=1, code="unexpected", message=message)
    pod = PodEnd(name="demo-master-0", uid="p", outcome=outcome)
    return AttemptEnd(
        stage="train",
        number=1,
        job="demo-0123456789-t-1",
        job_uid="u",
        run_uid="r",
        pods=(pod,),
        outcome=outcome,
        started_at=AT,
        ended_at=AT,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@fuzzing(200)
@given(starts | ends)
def test_every_record_is_read_back_as_it_was(record: AttemptStart | AttemptEnd) -> None:
    body = to_bytes(record)
    assert parse_document(type(record), body, where="it.json") == record
    assert to_bytes(parse_document(type(record), body, where="it.json")) == body


@fuzzing(200)
@given(data=st.data())
@pytest.mark.parametrize("record", [start(), end("it broke")], ids=["start", "end"])
def test_a_damaged_record_is_a_record_or_one_clear_line(record: AttemptStart | AttemptEnd, data: st.DataObject) -> None:
    body = data.draw(damaged_json(json.loads(to_bytes(record))))
    read_or_faults(lambda: parse_document(type(record), body, where="attempts/001/attempt.json"))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"schema": "tandem.dev/attempt/v2"}', b"\xff"])
def test_what_tandem_did_not_write_is_named_with_its_key(body: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        parse_document(AttemptEnd, body, where="attempts/001/attempt.json")
    (fault,) = caught.value.faults
    assert fault.where == "attempts/001/attempt.json"
    assert fault.what.startswith("is not a record that tandem wrote (")
    assert "backup" in fault.remedy


def test_noting_an_attempt_again_changes_nothing(store: Store) -> None:
    write_attempt_start(store, PLACE, start())
    write_attempt_start(store, PLACE, start(job="another"))
    key = PLACE.attempt_start("train", 1)
    assert parse_document(AttemptStart, store.get(key), where=key) == start()


def test_a_second_writer_gets_the_firsts_record(store: Store) -> None:
    assert write_attempt_end(store, PLACE, end("first")) == end("first")
    assert write_attempt_end(store, PLACE, end("second")) == end("first")


def test_of_writers_that_race_all_get_the_record_that_stands(store: Store) -> None:
    given = [end(str(number)) for number in range(8)]
    found = race([lambda one=one: write_attempt_end(store, PLACE, one) for one in given])  # type: ignore[misc]
    key = PLACE.attempt_end("train", 1)
    assert set(found) == {parse_document(AttemptEnd, store.get(key), where=key)}


def test_a_second_writer_over_a_damaged_record_is_told_so(store: Store) -> None:
    store.put_if_absent(PLACE.attempt_end("train", 1), b"{")
    with pytest.raises(Corrupt, match="is not a record that tandem wrote"):
        write_attempt_end(store, PLACE, end())


def test_a_pods_log_is_kept_once_under_the_key_that_its_end_names(store: Store) -> None:
    key = write_attempt_log(store, PLACE, start(), "demo-master-0", b"first\n")
    assert write_attempt_log(store, PLACE, start(), "demo-master-0", b"second\n") == key
    assert store.get(key) == b"first\n"
    assert write_attempt_log(store, PLACE, start(), "demo-worker-0", b"its own\n") != key
