from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.evaluate.records import EvalSample, Prediction
from tandem.evaluate.shards import UnmergeableShards, merge_shards, require_equal_settings


def sample(number: int, **changes: object) -> EvalSample:
    fields: dict[str, object] = {
        "sample_id": f"s{number}",
        "question": f"question {number}?",
        "images": ("a.png",),
        "reference_answer": "yes",
        "answer_type": "CLOSED",
    }
    return EvalSample.model_validate(fields | changes)


def predict(given: EvalSample) -> Prediction:
    return Prediction(
        **dict(given), text=f"text of {given.sample_id}", finish="stop", prompt_tokens=9, new_tokens=3, tiles=1
    )


SAMPLES = [sample(number) for number in range(5)]


@given(st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_complete_shards_give_every_prediction_in_the_evaluations_order(owners: list[int], random: object) -> None:
    samples = [sample(number) for number in range(len(owners))]
    shards = [[predict(each) for each, owner in zip(samples, owners, strict=True) if owner == k] for k in range(4)]
    for shard in shards:
        random.shuffle(shard)  # type: ignore[attr-defined]
    assert merge_shards(shards, samples) == [predict(each) for each in samples]


def test_a_missing_sample_is_named_and_nothing_is_merged() -> None:
    with pytest.raises(UnmergeableShards) as caught:
        merge_shards([[predict(SAMPLES[0])], [predict(SAMPLES[2]), predict(SAMPLES[4])]], SAMPLES)
    assert [fault.where for fault in caught.value.faults] == ["sample 's1'", "sample 's3'"]
    assert all("has no prediction" in fault.what for fault in caught.value.faults)
    assert isinstance(caught.value, BadData)


def test_a_sample_in_two_shards_is_named_with_its_shards() -> None:
    whole = [predict(each) for each in SAMPLES]
    with pytest.raises(UnmergeableShards, match=r"sample 's3': has 2 predictions, in shards 0, 2"):
        merge_shards([whole, [], [whole[3]]], SAMPLES)


def test_a_prediction_of_another_evaluation_is_named() -> None:
    with pytest.raises(UnmergeableShards, match=r"sample 's9': is not of this evaluation, but in shard 1"):
        merge_shards([[predict(each) for each in SAMPLES], [predict(sample(9))]], SAMPLES)


def test_a_sample_that_was_changed_after_generation_is_named_with_the_fields() -> None:
    predictions = [predict(each) for each in SAMPLES]
    changed = [*SAMPLES[:4], sample(4, question="another?", reference_answer="no")]
    with pytest.raises(UnmergeableShards, match=r"sample 's4': .*shard 0.*\(differs in question, reference_answer\)"):
        merge_shards([predictions], changed)


def test_all_faults_come_at_once_and_a_flood_is_counted() -> None:
    many = [sample(number) for number in range(250)]
    with pytest.raises(UnmergeableShards) as caught:
        merge_shards([[predict(sample(999))]], many)
    assert len(caught.value.faults) == 101
    assert caught.value.faults[-1].what == "151 more faults are not shown"


def test_shards_of_one_setting_pass() -> None:
    require_equal_settings([{"marker": "###", "limit": None}] * 3)
    require_equal_settings([])


def test_a_shard_with_other_settings_is_named_with_both_values() -> None:
    with pytest.raises(UnmergeableShards) as caught:
        require_equal_settings([{"max": 6, "seed": 1}, {"max": 6, "seed": 1}, {"max": 12, "limit": 5}])
    assert [(fault.where, fault.what) for fault in caught.value.faults] == [
        ("shard 2, limit", "was generated with 5, but shard 0 with None"),
        ("shard 2, max", "was generated with 12, but shard 0 with 6"),
        ("shard 2, seed", "was generated with None, but shard 0 with 1"),
    ]
