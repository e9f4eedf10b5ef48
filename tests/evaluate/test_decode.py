from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tandem.evaluate.decode import decode_greedily
from tandem.model.loading import load_base

IMAGE_TOKENS = 4
"""Tokens of a tile of the tiny model."""


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> Any:
    return load_base(tiny_model, precision="float32", device="cpu")


def make_prompts(network: Any, tiles_of_each: list[int], *, seed: int) -> tuple[list[list[int]], torch.Tensor]:
    drawn = np.random.default_rng(seed)
    image = network.config.image_token_id
    prompts = []
    for tiles in tiles_of_each:
        prompt = drawn.integers(256, size=drawn.integers(3, 40)).tolist()
        for _ in range(tiles):
            at = drawn.integers(1, len(prompt) + 1)
            prompt[at:at] = [image] * IMAGE_TOKENS
        prompts.append(prompt)
    generator = torch.Generator().manual_seed(seed)
    return prompts, torch.randn(sum(tiles_of_each), 3, 56, 56, generator=generator)


def generate_alone(network: Any, prompt: list[int], pixels: torch.Tensor, stops: frozenset[int]) -> list[int]:
    """The oracle: transformers' own generate, one prompt at a time."""
    output = network.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        **({"pixel_values": pixels} if len(pixels) else {}),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=sorted(stops),
        pad_token_id=0,
    )
    text: list[int] = output[0, len(prompt) :].tolist()
    return text


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_says_what_transformers_says_one_by_one(network: Any, seed: int) -> None:
    """With a tenth of the vocabulary as stop tokens, rows end at different steps and leave the batch."""
    tiles = [0, 2, 1, 0, 5, 1, 3, 0]
    prompts, pixels = make_prompts(network, tiles, seed=seed)
    vocabulary = network.config.text_config.vocab_size
    stops = frozenset(np.random.default_rng(seed + 100).choice(vocabulary, vocabulary // 10, replace=False).tolist())
    together = decode_greedily(network, prompts, pixels, stop_ids=stops, max_new_tokens=24)
    parts = torch.split(pixels, tiles)
    alone = [generate_alone(network, prompt, part, stops) for prompt, part in zip(prompts, parts, strict=True)]
    assert together == alone
    assert len({len(text) for text in together}) > 2


def test_a_text_ends_with_its_stop_token_or_at_the_limit(network: Any) -> None:
    prompts, pixels = make_prompts(network, [1, 0, 1], seed=1)
    free = decode_greedily(network, prompts, pixels, stop_ids=frozenset({10**6}), max_new_tokens=12)
    assert [len(text) for text in free] == [12, 12, 12]
    stop = free[1][5]
    stopped = decode_greedily(network, prompts, pixels, stop_ids=frozenset({stop}), max_new_tokens=12)
    for text, whole in zip(stopped, free, strict=True):
        end = whole.index(stop) + 1 if stop in whole else 12
        assert text == whole[:end]


def test_tiles_beyond_one_pass_of_the_vision_tower_change_nothing(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, pixels = make_prompts(network, [3, 0, 4], seed=2)
    stops = frozenset({10**6})
    whole = decode_greedily(network, prompts, pixels, stop_ids=stops, max_new_tokens=8)
    monkeypatch.setattr("tandem.evaluate.decode.VISION_TILES", 2)
    assert decode_greedily(network, prompts, pixels, stop_ids=stops, max_new_tokens=8) == whole


def test_image_tokens_without_their_tiles_are_refused(network: Any) -> None:
    prompts, pixels = make_prompts(network, [2, 1], seed=3)
    with pytest.raises(ValueError, match=r"12 image tokens for 2 x 4 features"):
        decode_greedily(network, prompts, pixels[:2], stop_ids=frozenset({0}), max_new_tokens=2)
