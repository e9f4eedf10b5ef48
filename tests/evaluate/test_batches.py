from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.evaluate.batches import Batch, plan_batches, select_shard

LENGTHS = st.lists(st.integers(min_value=1, max_value=3000), max_size=80)
BUDGETS = st.tuples(st.integers(min_value=1, max_value=500), st.integers(min_value=1, max_value=8000))


def plan(lengths: list[int], budget: tuple[int, int]) -> tuple[Batch, ...]:
    return plan_batches(lengths, max_new_tokens=budget[0], batch_tokens=budget[1])


@given(LENGTHS, BUDGETS)
def test_every_sample_is_in_exactly_one_batch(lengths: list[int], budget: tuple[int, int]) -> None:
    planned = [index for batch in plan(lengths, budget) for index in batch.samples]
    assert sorted(planned) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_only_a_batch_of_one_sample_exceeds_the_budget(lengths: list[int], budget: tuple[int, int]) -> None:
    for batch in plan(lengths, budget):
        longest = max(lengths[index] for index in batch.samples)
        assert batch.prompt_tokens == longest
        assert len(batch.samples) == 1 or (longest + budget[0]) * len(batch.samples) <= budget[1]


@given(LENGTHS, BUDGETS)
def test_no_batch_has_room_for_the_next_sample(lengths: list[int], budget: tuple[int, int]) -> None:
    for batch in plan(lengths, budget)[:-1]:
        assert (batch.prompt_tokens + budget[0]) * (len(batch.samples) + 1) > budget[1]


@given(LENGTHS, BUDGETS)
def test_samples_go_from_the_longest_to_the_shortest_and_ties_keep_their_order(
    lengths: list[int], budget: tuple[int, int]
) -> None:
    order = [index for batch in plan(lengths, budget) for index in batch.samples]
    keys = [(-lengths[index], index) for index in order]
    assert keys == sorted(keys)


@given(LENGTHS, BUDGETS, st.integers(min_value=1, max_value=12))
def test_shards_take_whole_batches_each_exactly_once(lengths: list[int], budget: tuple[int, int], shards: int) -> None:
    batches = plan(lengths, budget)
    taken = [batch for shard in range(shards) for batch in select_shard(batches, shard=shard, shards=shards)]
    assert sorted(taken, key=lambda batch: batch.index) == list(batches)


@given(LENGTHS, BUDGETS, st.integers(min_value=1, max_value=12))
def test_no_shard_has_over_one_batch_more_than_another(
    lengths: list[int], budget: tuple[int, int], shards: int
) -> None:
    batches = plan(lengths, budget)
    counts = [len(select_shard(batches, shard=shard, shards=shards)) for shard in range(shards)]
    assert max(counts) - min(counts) <= 1


def test_a_plan_looks_like_this() -> None:
    batches = plan_batches([10, 50, 10, 200, 40], max_new_tokens=10, batch_tokens=120)
    assert [(batch.index, batch.samples, batch.prompt_tokens) for batch in batches] == [
        (0, (3,), 200),
        (1, (1, 4), 50),
        (2, (0, 2), 10),
    ]


@pytest.mark.parametrize("shard", [-1, 2, 7])
def test_a_shard_out_of_range_is_refused(shard: int) -> None:
    with pytest.raises(ValueError, match="no shard"):
        select_shard((), shard=shard, shards=2)
