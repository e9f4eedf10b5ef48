from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tandem.errors import OutOfMemory
from tandem.model.loading import load_base
from tandem.model.tiles import TileGeometry
from tandem.spec import TrainSpec
from tandem.train.adapter import attach_adapter, trainable_weights
from tandem.train.fitting import Memory, Trial
from tandem.train.memory import count_training_bytes
from tandem.train.ranks import Ranks
from tandem.train.samples import IGNORED, Length
from tandem.train.trying import (
    Shape,
    describe_shape,
    find_memory,
    measure_peak,
    pass_through,
    settle_memory,
    telling_smaller_device,
)

TINY = TileGeometry(tile_size=56)
LENGTHS = [
    Length(tokens=100, image_tokens=12, labelled=20),
    Length(tokens=40, image_tokens=20, labelled=4),
    Length(tokens=10, image_tokens=0, labelled=6),
]


def settings(**changes: Any) -> TrainSpec:
    batch = {"globalSize": 4, "packedTokens": 400} | changes.pop("batch", {})
    return TrainSpec.model_validate({"meta": "m", "steps": 1, "maxLength": 100, "batch": batch} | changes)


def describe(image_token: int = 7) -> Shape:
    return describe_shape(LENGTHS, geometry=TINY, image_token=image_token)


def test_invented_samples_are_as_long_as_the_longest_with_the_largest_shares_of_images_and_labels() -> None:
    examples = describe().invent(250)
    assert [len(example.input_ids) for example in examples] == [100, 100, 50]
    longest, _, rest = examples
    assert [longest.input_ids.count(7), rest.input_ids.count(7)] == [48, 24]  # half, in tiles of 4
    assert [len(longest.pixels), len(rest.pixels)] == [12, 6]
    assert [len(example.labels) - example.labels.count(IGNORED) for example in (longest, rest)] == [60, 30]
    assert longest.pixels.shape == (12, 3, 56, 56)


def test_samples_without_images_are_invented_without() -> None:
    shape = describe_shape(LENGTHS[2:], geometry=TINY, image_token=7)
    (example,) = shape.invent(10)
    assert (example.tiles, example.input_ids) == (0, [0] * 10)


@dataclass
class Gauge:
    """Counts tokens of the language model's layers, as a device would count bytes; full at `whole`."""

    whole: int
    held: int = 0
    peaks: list[int] = field(default_factory=list)

    def reset(self) -> None:
        self.held = 0

    def read(self) -> int:
        self.peaks.append(self.held)
        return self.held

    def watch(self, language_model: Any) -> None:
        def hold(_module: Any, _given: Any, given: dict[str, Any]) -> None:
            tokens = given["inputs_embeds"].shape[0] * given["inputs_embeds"].shape[1]
            self.held += tokens if language_model.gradient_checkpointing else 10 * tokens
            if self.held > self.whole:
                raise torch.OutOfMemoryError("full")

        language_model.register_forward_pre_hook(hold, with_kwargs=True)


def build(tiny_model: Path) -> Any:
    base = load_base(tiny_model, precision="float32", device="cpu")
    return attach_adapter(base, settings().lora, seed=0, base="tiny")


@pytest.mark.parametrize(
    ("changes", "whole", "expected"),
    [
        ({}, 5000, (400, False, 1)),
        ({}, 2500, (200, False, 2)),
        ({}, 450, (400, True, 4)),
        ({}, 150, (100, True, 6)),
        ({"gradientCheckpointing": True}, 5000, (400, True, 1)),
        ({"batch": {"packedTokens": None, "perDevice": 2}}, 2500, (None, False, 1)),
        ({"batch": {"packedTokens": None, "perDevice": 2}}, 500, (None, True, 2)),
    ],
)
def test_a_model_is_tried_until_it_fits_and_stays_as_it_was(
    tiny_model: Path, changes: dict[str, Any], whole: int, expected: tuple[int | None, bool, int]
) -> None:
    model, train = build(tiny_model), settings(**changes)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    base, gauge = model.get_base_model(), Gauge(whole=whole)
    told: list[None] = []
    gauge.watch(base.model.language_model)
    held = count_training_bytes(sum(weight.numel() for weight in trainable_weights(model)), train)
    memory = find_memory(
        model, train, describe(base.config.image_token_id), Ranks(), gauge=gauge, room=whole + held,
        on_trial=lambda: told.append(None),
    )  # fmt: skip
    assert (memory.packed_tokens, memory.gradient_checkpointing, len(memory.tried)) == expected
    assert len(told) == len(memory.tried)
    assert memory.tried[-1].peak_bytes == gauge.peaks[-1]
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_what_fits_on_no_account_ends_in_out_of_memory_and_leaves_no_gradient(tiny_model: Path) -> None:
    model = build(tiny_model)
    base, gauge = model.get_base_model(), Gauge(whole=50)
    gauge.watch(base.model.language_model)
    shape = describe(base.config.image_token_id)
    with pytest.raises(OutOfMemory, match="the longest sample alone"):
        find_memory(model, settings(), shape, Ranks(), gauge=gauge, room=10**9, on_trial=lambda: None)
    assert all(weight.grad is None for weight in model.parameters())


def test_what_the_optimizer_will_hold_must_fit_too(tiny_model: Path) -> None:
    model = build(tiny_model)
    base, gauge = model.get_base_model(), Gauge(whole=10**9)
    gauge.watch(base.model.language_model)
    held = count_training_bytes(sum(weight.numel() for weight in trainable_weights(model)), settings())
    shape = describe(base.config.image_token_id)
    memory = find_memory(model, settings(), shape, Ranks(), gauge=gauge, room=held + 2000, on_trial=lambda: None)
    assert [trial.peak_bytes for trial in memory.tried] == [None, 2000]


def test_invented_micro_batches_go_through_with_a_gradient_for_every_weight(tiny_model: Path) -> None:
    model = build(tiny_model)
    met: list[bool] = []
    for weight in trainable_weights(model):
        weight.register_hook(lambda gradient: met.append(bool(gradient.isfinite().all())))
    pass_through(model, describe(model.get_base_model().config.image_token_id).invent(150), packed=True)
    assert met == [True] * len(trainable_weights(model))


def test_only_memory_that_ran_out_is_taken_for_it() -> None:
    def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        measure_peak(fail, Gauge(whole=1))


FOUND = Memory(
    packed_tokens=200,
    gradient_checkpointing=True,
    tried=(Trial(tokens=200, checkpointed=True, peak_bytes=1),),
)


@pytest.mark.parametrize(("found", "tokens", "on"), [(None, 400, False), (FOUND, 200, True)])
def test_without_a_gpu_nothing_is_tried_and_a_checkpoint_s_values_are_taken(
    tiny_model: Path, found: Memory | None, tokens: int, on: bool
) -> None:
    model = build(tiny_model)
    loading: Any = SimpleNamespace()
    memory = settle_memory(model, settings(), loading, Ranks(), found=found, on_trial=lambda: pytest.fail("tried"))
    assert (memory.packed_tokens, memory.gradient_checkpointing) == (tokens, on)
    assert model.get_base_model().model.language_model.gradient_checkpointing is on


def test_memory_that_runs_out_with_another_gpu_s_sizes_says_so() -> None:
    with pytest.raises(OutOfMemory) as raised, telling_smaller_device(FOUND, "executions/a/checkpoints/step-000002"):
        raise torch.OutOfMemoryError("full")
    assert "step-000002: micro-batches of at most 200 tokens, with gradient checkpointing, do not fit" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("memory", "source"), [(FOUND, None), (Memory(packed_tokens=9, gradient_checkpointing=True), "a")]
)
def test_memory_that_runs_out_with_sizes_of_its_own_is_left_as_it_is(memory: Memory, source: str | None) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="full"), telling_smaller_device(memory, source):
        raise torch.OutOfMemoryError("full")
