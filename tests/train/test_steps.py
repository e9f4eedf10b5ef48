from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.model.loading import load_tokenizer
from tandem.model.tiles import TileGeometry
from tandem.spec import TrainSpec
from tandem.train.corpus import Tolerance, read_corpus
from tandem.train.ranks import Ranks
from tandem.train.samples import Length, ReadingRules
from tandem.train.steps import Loading, StepLoader, StepPlan, StepSource, plan_step, plan_validation
from tests.train.small import SETTINGS, merge, write_data


def settings(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(merge(SETTINGS, changes))


def length(tokens: int, labelled: int) -> Length:
    return Length(tokens=tokens, image_tokens=0, labelled=labelled)


lengths = st.lists(st.tuples(st.integers(2, 160), st.integers(1, 50)), min_size=1, max_size=40).map(
    lambda pairs: [length(tokens, labelled) for tokens, labelled in pairs]
)


def plans_of(given_lengths: list[Length], train: TrainSpec, step: int) -> list[StepPlan]:
    return [plan_step(step, given_lengths, train=train, seed=1, rank=rank) for rank in range(train.ranks)]


@given(lengths, st.integers(1, 4), st.integers(0, 9))
def test_the_ranks_together_hold_the_global_batch(given_lengths: list[Length], ranks: int, step: int) -> None:
    train = settings(ranks=ranks, batch={"globalSize": 8})
    plans = plans_of(given_lengths, train, step)
    places = [place for plan in plans for batch in plan.micro_batches for place in batch.places]
    assert len(places) == 8
    alone = plans_of(given_lengths, settings(batch={"globalSize": 8}), step)[0]
    assert sorted(places) == sorted(place for batch in alone.micro_batches for place in batch.places)
    assert {plan.tokens for plan in plans} == {alone.tokens}


@given(lengths, st.integers(1, 4))
def test_global_token_mean_weighs_every_labelled_token_alike(given_lengths: list[Length], ranks: int) -> None:
    train = settings(ranks=ranks, batch={"globalSize": 8})
    plans = plans_of(given_lengths, train, 0)
    labelled = sum(
        given_lengths[sample].labelled for plan in plans for batch in plan.micro_batches for _, sample in batch.places
    )
    # A rank's gradient counts 1/ranks, so each token ends up with 1/labelled.
    assert all(batch.normaliser * ranks == pytest.approx(labelled) for plan in plans for batch in plan.micro_batches)


def test_micro_batch_mean_is_the_mean_of_the_micro_batches_means() -> None:
    train = settings(ranks=2, loss="micro_batch_mean", batch={"globalSize": 8, "perDevice": 2, "packedTokens": None})
    given_lengths = [length(10, number + 1) for number in range(8)]
    plans = plans_of(given_lengths, train, 0)
    assert [len(plan.micro_batches) for plan in plans] == [2, 2]
    total = 0.0
    for plan in plans:
        for batch in plan.micro_batches:
            labelled = sum(given_lengths[sample].labelled for _, sample in batch.places)
            token_losses = labelled * 3.0  # every token's loss is 3
            total += token_losses / batch.normaliser / len(plans)
    assert total == pytest.approx(3.0)


@given(lengths, st.integers(1, 4), st.sampled_from([320, None]))
def test_validation_uses_every_sample_once(given_lengths: list[Length], world: int, packed: int | None) -> None:
    train = settings(batch={"globalSize": 4, "packedTokens": packed})
    used = [
        sample
        for rank in range(world)
        for plan in plan_validation(given_lengths, train=train, ranks=Ranks(world=world, rank=rank))
        for batch in plan.micro_batches
        for _, sample in batch.places
    ]
    assert sorted(used) == list(range(len(given_lengths)))


@pytest.fixture
def loader(tiny_model: Path, tmp_path: Path) -> StepLoader:
    write_data(tmp_path, samples=5)
    tokenizer = load_tokenizer(tiny_model)
    rules = ReadingRules(max_tiles=2, max_length=160, geometry=TileGeometry(tile_size=56))
    corpus = read_corpus(tmp_path / "meta.json", tokenizer, rules=rules, tolerance=Tolerance())
    loading = Loading(corpus=corpus, tokenizer=tokenizer, rules=rules, packed=True, seed=1)
    return StepLoader(StepSource(loading, None, train=settings(), rank=0), 3)


def test_a_loader_that_starts_later_yields_the_same_steps(loader: StepLoader) -> None:
    import torch

    late = StepLoader(loader.dataset, 3, first=1)
    assert len(late) == len(loader) == 3
    steps, later = list(loader), list(late)
    assert [loaded.step for loaded in later] == [1, 2]
    for one, same in zip(steps[1:], later, strict=True):
        assert one.plan == same.plan
        for batch, again in zip(one.tensors, same.tensors, strict=True):
            assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_loading_draws_nothing_from_the_state_that_dropout_uses(loader: StepLoader) -> None:
    import torch

    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_broke_after_the_start_is_named_across_processes(loader: StepLoader, workers: int) -> None:
    sample = next(sample for sample in loader.dataset.loading.corpus.samples if sample.images)
    sample.images[0].write_bytes(b"no image")
    with pytest.raises(BadData, match=r"train\.jsonl:\d") as caught:
        list(StepLoader(loader.dataset, 3, workers=workers))
    assert caught.value.faults[0].remedy


def test_data_that_changed_after_it_was_measured_is_refused(loader: StepLoader) -> None:
    from PIL import Image

    sample = next(sample for sample in loader.dataset.loading.corpus.samples if sample.images)
    wide = Image.open(sample.images[0]).size[0] > 56
    Image.new("RGB", (56 if wide else 116, 56)).save(sample.images[0])
    with pytest.raises(BadData, match=r"has no longer the .* tokens"):
        list(loader)
