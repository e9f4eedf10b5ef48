from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.train.packing import (
    count_steps,
    deal_step,
    pack_in_order,
    pack_step,
    place_samples,
    shuffle_epoch,
)

BUDGET = 100
batches = st.integers(1, 8).flatmap(
    lambda ranks: st.tuples(st.just(ranks), st.lists(st.integers(1, BUDGET), min_size=ranks, max_size=60))
)


@given(batches)
def test_packing_uses_every_sample_exactly_once(batch: tuple[int, list[int]]) -> None:
    ranks, lengths = batch
    layout = pack_step(lengths, ranks=ranks, budget=BUDGET)
    used = [position for rank in layout for micro_batch in rank for position in micro_batch]
    assert sorted(used) == list(range(len(lengths)))


@given(batches)
def test_no_packed_micro_batch_is_over_the_budget(batch: tuple[int, list[int]]) -> None:
    ranks, lengths = batch
    layout = pack_step(lengths, ranks=ranks, budget=BUDGET)
    assert all(0 < sum(lengths[position] for position in batch) <= BUDGET for rank in layout for batch in rank)


@given(batches)
def test_every_rank_has_at_least_one_micro_batch(batch: tuple[int, list[int]]) -> None:
    ranks, lengths = batch
    layout = pack_step(lengths, ranks=ranks, budget=BUDGET)
    assert len(layout) == ranks
    assert all(layout)


@given(batches)
def test_no_rank_has_more_tokens_than_the_lightest_by_more_than_one_sample(batch: tuple[int, list[int]]) -> None:
    ranks, lengths = batch
    layout = pack_step(lengths, ranks=ranks, budget=BUDGET)
    loads = [sum(lengths[position] for micro_batch in rank for position in micro_batch) for rank in layout]
    assert max(loads) - min(loads) <= max(lengths)


@given(batches)
def test_first_fit_leaves_no_two_micro_batches_of_a_rank_that_would_fit_in_one(batch: tuple[int, list[int]]) -> None:
    ranks, lengths = batch
    for rank in pack_step(lengths, ranks=ranks, budget=BUDGET):
        loads = sorted(sum(lengths[position] for position in micro_batch) for micro_batch in rank)
        assert len(loads) < 2 or loads[0] + loads[1] > BUDGET


def test_packing_can_give_ranks_different_numbers_of_micro_batches() -> None:
    layout = pack_step([90, 50, 40, 30], ranks=2, budget=100)
    assert [len(rank) for rank in layout] == [2, 1]


def test_a_sample_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="101 tokens does not fit in 100"):
        pack_step([101], ranks=1, budget=100)


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 samples for 2 ranks"):
        pack_step([5], ranks=2, budget=100)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_dealing_uses_every_sample_once_in_equal_shares(ranks: int, per_device: int, accumulation: int) -> None:
    layout = deal_step(ranks * per_device * accumulation, ranks=ranks, per_device=per_device)
    used = [position for rank in layout for micro_batch in rank for position in micro_batch]
    assert sorted(used) == list(range(ranks * per_device * accumulation))
    assert {len(rank) for rank in layout} == {accumulation}
    assert {len(micro_batch) for rank in layout for micro_batch in rank} == {per_device}


def test_dealing_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="64 samples are not a multiple of 6 ranks x 4"):
        deal_step(64, ranks=6, per_device=4)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_an_epoch_is_a_permutation(samples: int, seed: int, epoch: int) -> None:
    assert sorted(shuffle_epoch(samples, seed=seed, epoch=epoch)) == list(range(samples))


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = {shuffle_epoch(50, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_in_every_version() -> None:
    # Made by this function when it was written: a change would break resuming from checkpoints of older versions.
    assert shuffle_epoch(8, seed=0, epoch=0) == (7, 0, 1, 5, 3, 4, 2, 6)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 3))
def test_whole_epochs_use_every_sample_as_often(samples: int, global_size: int, epochs: int) -> None:
    steps = count_steps(samples, global_size=global_size, epochs=float(epochs), steps=None)
    used = [
        place
        for step in range(steps)
        for place in place_samples(step, samples=samples, global_size=global_size, seed=1)
    ]
    assert len(used) == steps * global_size
    whole = Counter(sample for epoch, sample in used if epoch < epochs)
    assert set(whole.values()) == {epochs}
    assert len(whole) == samples
    assert len(used) - samples * epochs < global_size


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 20))
def test_every_global_batch_is_exact_to_the_sample(samples: int, global_size: int, step: int) -> None:
    assert len(place_samples(step, samples=samples, global_size=global_size, seed=3)) == global_size


@pytest.mark.parametrize(
    ("samples", "global_size", "epochs", "expected"),
    [(1000, 64, 1.0, 16), (1024, 64, 1.0, 16), (100, 10, 0.3, 3), (3, 64, 1.0, 1), (100, 10, 0.01, 1)],
)
def test_steps_follow_from_epochs(samples: int, global_size: int, epochs: float, expected: int) -> None:
    assert count_steps(samples, global_size=global_size, epochs=epochs, steps=None) == expected


def test_given_steps_are_kept() -> None:
    assert count_steps(10, global_size=64, epochs=None, steps=7) == 7


@given(st.lists(st.integers(1, BUDGET), max_size=40))
def test_packing_in_order_keeps_the_order_and_the_budget(lengths: list[int]) -> None:
    packed = pack_in_order(lengths, budget=BUDGET)
    assert [position for micro_batch in packed for position in micro_batch] == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in micro_batch) <= BUDGET for micro_batch in packed)
