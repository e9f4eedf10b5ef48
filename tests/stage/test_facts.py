"""What a pod is told survives its environment; what is missing or wrong is said at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration
from tandem.stage.facts import Facts, read_facts, to_environment
from tandem.store.layout import RunPlace, place_of_record

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
STAGES = st.one_of(
    st.just("train"),
    st.builds("generate/{}/{}".format, NAMES, st.integers(0, 999)),
    st.builds("score/{}/{}".format, NAMES, st.from_regex(r"[0-9a-f]{10}", fullmatch=True)),
)
STORES = st.sampled_from(["file:///tmp/runs/store", "s3://bucket", "s3://bucket/a/runs/b"])


@given(STORES, NAMES, NAMES, STAGES, st.integers(1, 10**6))
def test_facts_survive_the_environment(url: str, namespace: str, run_id: str, stage: str, attempt: int) -> None:
    place = RunPlace(namespace=namespace, run_id=run_id)
    facts = Facts(store_url=url, place=place, run_sha256="ab" * 32, stage=stage, attempt=attempt)
    assert read_facts(to_environment(facts)) == facts
    assert place_of_record(place.record) == place


def test_every_missing_fact_is_named() -> None:
    with pytest.raises(BadConfiguration) as caught:
        read_facts({})
    assert [fault.where for fault in caught.value.faults] == ["RUN_URI", "RUN_SHA256", "STAGE", "ATTEMPT"]


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_garbage_is_refused_and_never_a_traceback(uri: str, stage: str, attempt: str) -> None:
    environment = {"RUN_URI": "!" + uri, "RUN_SHA256": "x", "STAGE": "!" + stage, "ATTEMPT": "!" + attempt}
    with pytest.raises(BadConfiguration) as caught:
        read_facts(environment)
    assert [fault.where for fault in caught.value.faults] == ["RUN_URI", "ATTEMPT", "STAGE"]
