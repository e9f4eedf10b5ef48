"""Which objects asked for a Run, and how it ended for each: once, whatever objects become of."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.outcome import Outcome
from tandem.record.asked import Asked, Ended, list_open, note_asked, note_ended, read_ended
from tandem.record.document import parse_document, to_bytes
from tandem.store import Corrupt, Store, open_store
from tandem.store.layout import RunPlace
from tests.fuzz.damage import damaged_json, fuzzing, read_or_faults
from tests.record.racing import race
from tests.record.test_attempt import outcomes, texts

PLACE = RunPlace(namespace="team", run_id="demo-0123456789")
AT = "2026-01-01T00:00:00+00:00"
FAILED = Ended(
    uid="u",
    phase="Failed",
    stage="train",
    outcome=Outcome(exit_code=65, code="bad-data", message="the data is wrong", remedy="Mend it."),
    ended_at=AT,
)

asked = st.builds(Asked, uid=texts, name=texts, created_at=texts)
ended = st.builds(
    Ended,
    uid=texts,
    phase=st.sampled_from(["Succeeded", "Failed", "Cancelled"]),
    stage=st.none() | texts,
    outcome=st.none() | outcomes,
    ended_at=texts,
)


def ask(store: Store, uid: str, place: RunPlace = PLACE) -> None:
    note_asked(store, place, Asked(uid=uid, name="demo", created_at=AT))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@fuzzing(200)
@given(asked | ended)
def test_every_record_is_read_back_as_it_was(record: Asked | Ended) -> None:
    assert parse_document(type(record), to_bytes(record), where="it.json") == record


@fuzzing(200)
@given(data=st.data())
def test_a_damaged_end_is_an_end_or_one_clear_line(data: st.DataObject) -> None:
    body = data.draw(damaged_json(json.loads(to_bytes(FAILED))))
    read_or_faults(lambda: parse_document(Ended, body, where=PLACE.ended("u")))


def test_a_run_that_has_not_ended_for_an_object_has_no_end(store: Store) -> None:
    ask(store, "u")
    assert read_ended(store, PLACE, "u") is None
    note_ended(store, PLACE, FAILED)
    assert read_ended(store, PLACE, "u") == FAILED
    assert read_ended(store, PLACE, "another") is None


def test_how_a_run_ended_first_stands(store: Store) -> None:
    assert note_ended(store, PLACE, FAILED) == FAILED
    assert note_ended(store, PLACE, Ended(uid="u", phase="Cancelled", ended_at=AT)) == FAILED


def test_of_writers_that_race_all_get_the_end_that_stands(store: Store) -> None:
    given = [Ended(uid="u", phase="Failed", stage=f"score/{number}", ended_at=AT) for number in range(8)]
    found = race([partial(note_ended, store, PLACE, one) for one in given])
    assert set(found) == {read_ended(store, PLACE, "u")}


def test_a_damaged_end_is_named_by_its_key_to_readers_and_second_writers(store: Store) -> None:
    store.put_if_absent(PLACE.ended("u"), b'{"uid": 5}')
    for read in (partial(read_ended, store, PLACE, "u"), partial(note_ended, store, PLACE, FAILED)):
        with pytest.raises(Corrupt) as caught:
            read()
        (fault,) = caught.value.faults
        assert fault.where == PLACE.ended("u")
        assert fault.what.startswith("is not a record that tandem wrote (")


OTHER = RunPlace(namespace="team", run_id="other-0123456789")
FOREIGN = RunPlace(namespace="elsewhere", run_id="demo-0123456789")


@fuzzing(50)
@given(
    who=st.dictionaries(
        st.tuples(st.sampled_from([PLACE, OTHER, FOREIGN]), st.sampled_from("abcd")), st.booleans(), max_size=12
    )
)
def test_open_are_the_objects_of_a_namespace_that_asked_and_for_which_nothing_has_ended(
    tmp_path_factory: pytest.TempPathFactory, who: dict[tuple[RunPlace, str], bool]
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    for (place, letter), is_ended in who.items():
        uid = f"{place.namespace}-{place.run_id}-{letter}"
        ask(store, uid, place)
        ask(store, uid, place)
        if is_ended:
            note_ended(store, place, Ended(uid=uid, phase="Succeeded", ended_at=AT))
    wanted = {
        f"{place.namespace}-{place.run_id}-{letter}": place
        for (place, letter), is_ended in who.items()
        if not is_ended and place.namespace == "team"
    }
    assert list_open(store, "team") == wanted


def test_what_else_lies_among_the_objects_is_passed_over(store: Store) -> None:
    ask(store, "u")
    for stray in ("note.txt", "v/other.json", "v/asked.json/x"):
        store.put_if_absent(f"{PLACE.objects}{stray}", b"?")
    store.put_if_absent("runs/team/stray", b"?")
    assert list_open(store, "team") == {"u": PLACE}
