"""That the product's fast training is transformers' and peft's own, step by step, as far as a CPU can show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bench.gpu_equality import ALLOWED, PLAIN, WAYS, find_largest_difference, train_each_way
from bench.gpu_samples import GEOMETRIES
from bench.gpu_train import EVERYTHING, Variant

from tests.bench.running import run

STEPS = 50
FAST = {
    "all but compiled": replace(PLAIN, speed=replace(EVERYTHING, compiled=False), packed_tokens=256),
    "everything": replace(PLAIN, speed=EVERYTHING, packed_tokens=256),
}
"""Two micro-batches and more of a step, with other lengths in each."""


def train(way: Variant) -> list[float]:
    """The losses of the tiny model; a rate at which it learns much in so few steps.

    torch.compile goes up to its last step, code in C++: not every machine has a compiler for that.
    """
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        (losses,) = train_each_way(
            {"tiny": way}, GEOMETRIES["tiny"], steps=STEPS, device="cpu", dtype=torch.float32, rate=1e-2
        ).values()
    return losses


@pytest.fixture(scope="module")
def of_transformers() -> list[float]:
    """Padded in fours through transformers' own forward, with peft's layers, all logits and its own loss."""
    return train(WAYS["transformers"])


@pytest.mark.parametrize("way", FAST)
def test_fifty_steps_have_the_losses_that_transformers_and_peft_have(of_transformers: list[float], way: str) -> None:
    losses = train(FAST[way])
    off = find_largest_difference(losses, of_transformers)
    print(f"{way}: largest difference of {len(losses)} losses {off:.1e}")  # noqa: T201
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.5
    assert off < ALLOWED


def test_the_equality_benchmark_finds_the_fast_ways_equal() -> None:
    result = run("gpu_equality", "--geometry", "tiny", "--steps", "6", "--ways", "plain;fused loss;fused LoRA")
    assert result["equal"] is True
    assert max(result["operators"]["float32"].values()) < 1e-5
