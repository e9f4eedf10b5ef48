"""run.json: written once, adopted by the same submission, refused under changed inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration, BadData
from tandem.record.run import Pin, find_run, list_runs, parse_record, write_record
from tandem.spec import Submission, parse_run
from tandem.store import Store, open_store
from tandem.store.layout import RunPlace

FILE = b"""
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {name: nightly}
spec:
  model: {source: base}
  evals: [{name: base, of: base, data: eval.json, tiles: {max: 2}}]
"""
PIN = Pin(text="base", location="/models/base", digest="sha256:" + "0" * 64, files=3, size=9)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def submit(body: bytes = FILE) -> Submission:
    return parse_run(body, name="nightly.yaml", folder=Path("/jobs"))


def write(store: Store, *, pin: Pin = PIN, again: bool = False, body: bytes = FILE) -> tuple[RunPlace, bytes]:
    inputs = {"spec.model.source": pin}
    return write_record(store, submit(body), inputs, namespace="local", submitted_at="2026-01-01", again=again)


def test_the_same_submission_twice_is_one_run(store: Store) -> None:
    assert write(store) == write(store)
    assert [place.run_id for place in list_runs(store, "local")] == [submit().id]


def test_again_asks_for_a_new_run(store: Store) -> None:
    first, _ = write(store)
    second, _ = write(store, again=True)
    third, _ = write(store, again=True)
    assert (second.run_id, third.run_id) == (f"{first.run_id}-1", f"{first.run_id}-2")


def test_changed_inputs_under_an_unchanged_file_are_refused(store: Store) -> None:
    write(store)
    changed = PIN.model_copy(update={"digest": "sha256:" + "1" * 64})
    with pytest.raises(BadConfiguration, match=r"spec\.model\.source: base: has changed since .*--again"):
        write(store, pin=changed)
    write(store, pin=changed, again=True)


def test_another_desired_state_is_the_same_run(store: Store) -> None:
    first, _ = write(store)
    second, _ = write(store, body=FILE + b"  desired: Suspended\n")
    assert first == second


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    place, body = write(store)
    assert find_run(store, "nightly", namespace="local") == (place, body)
    assert find_run(store, place.run_id, namespace="local") == (place, body)
    write(store, again=True)
    assert find_run(store, place.run_id, namespace="local") == (place, body)
    with pytest.raises(BadConfiguration, match="2 Runs have ids that start so"):
        find_run(store, "nightly", namespace="local")
    with pytest.raises(BadConfiguration, match="no Run has this id"):
        find_run(store, "weekly", namespace="local")


@given(st.binary(max_size=300))
def test_garbage_is_no_record(body: bytes) -> None:
    with pytest.raises(BadData, match=r"^run\.json: .* is not a run record"):
        parse_record(body, where="run.json")


def test_a_record_of_another_version_is_refused_as_a_pod_with_an_older_image_does(store: Store) -> None:
    _, body = write(store)
    with pytest.raises(BadData, match=r"schema: is not a run record that this version reads .* that wrote it"):
        parse_record(body.replace(b"run-record/v1", b"run-record/v2"), where="run.json")


def test_a_record_with_a_spec_of_another_version_is_refused(store: Store) -> None:
    _, body = write(store)
    with pytest.raises(BadData, match="version of tandem that wrote it"):
        parse_record(body.replace(b'"maxNewTokens"', b'"x"').replace(b'"tiles"', b'"tilez"'), where="run.json")
