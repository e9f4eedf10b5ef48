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


def of_shards(listed: str, index: str | None) -> dict[str, str]:
    place = RunPlace(namespace="team", run_id="demo-0123456789")
    facts = Facts(store_url="s3://b", place=place, run_sha256="ab", stage=f"generate/base/{listed}", attempt=2)
    return to_environment(facts) | ({} if index is None else {"JOB_COMPLETION_INDEX": index})


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True), st.data())
def test_each_pod_of_an_indexed_job_makes_the_shard_at_its_index(shards: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(shards) - 1))
    facts = read_facts(of_shards(",".join(map(str, shards)), str(index)))
    assert facts.stage == f"generate/base/{shards[index]}"


@pytest.mark.parametrize("index", [None, "2", "-1", "x", "", "\u0661"])
def test_a_pod_that_cannot_tell_its_shard_refuses(index: str | None) -> None:
    with pytest.raises(BadConfiguration, match="JOB_COMPLETION_INDEX"):
        read_facts(of_shards("0,1", index))
