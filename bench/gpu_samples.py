"""Geometries of InternVL3 with random weights, made on the device, and samples of a fixed distribution.

The samples have the field's mean of 1,640 tokens: 1 to 7 tiles of 256 tokens (4.2 on average), 60 to 200 tokens of
prompt, 291 to 589 of answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from tandem.model.internvl import IGNORED
from tandem.train.collate import pack, pad
from tandem.train.samples import Example, Length
from tandem.train.steps import LoadedStep, StepPlan

IMAGE = 5
"""Token id of an image token in the made-up vocabulary."""

TILES = {1: 0.15, 3: 0.2, 4: 0.2, 5: 0.2, 6: 0.1, 7: 0.15}
"""Share of samples with so many tiles, thumbnails included: 4.2 on average."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of an InternVL, and of the samples that it is trained on."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    vision_hidden: int
    vision_inner: int
    vision_layers: int
    vision_heads: int
    side: int
    tied: bool
    prompt: tuple[int, int] = (60, 200)
    answer: tuple[int, int] = (291, 589)

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile."""
        return (self.side // 28) ** 2

    @property
    def patches(self) -> int:
        """Positions of a tile in the vision tower."""
        return (self.side // 14) ** 2 + 1


VISION_300M: dict[str, Any] = {
    "vision_hidden": 1024, "vision_inner": 4096, "vision_layers": 24, "vision_heads": 16, "side": 448,
}  # fmt: skip
GEOMETRIES = {
    "tiny": Geometry(
        hidden=64, inner=96, layers=2, heads=4, key_heads=2, vocabulary=1024, vision_hidden=32, vision_inner=64,
        vision_layers=2, vision_heads=4, side=56, tied=True, prompt=(6, 20), answer=(10, 30),
    ),
    "small": Geometry(
        hidden=512, inner=1408, layers=4, heads=4, key_heads=2, vocabulary=4096, vision_hidden=256, vision_inner=512,
        vision_layers=2, vision_heads=4, side=224, tied=True, prompt=(20, 60), answer=(60, 120),
    ),
    "2b": Geometry(
        hidden=1536, inner=8960, layers=28, heads=12, key_heads=2, vocabulary=151_674, tied=True, **VISION_300M
    ),
    "8b": Geometry(
        hidden=3584, inner=18_944, layers=28, heads=28, key_heads=4, vocabulary=151_674, tied=False, **VISION_300M
    ),
}  # fmt: skip
"""InternVL3's, as published; tiny and small are for tests."""


def build_base(geometry: Geometry, *, dtype: torch.dtype, device: str, seed: int = 0, image_token: int = IMAGE) -> Any:
    """An InternVL with random weights, on the device from the beginning."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    text = Qwen2Config(
        hidden_size=geometry.hidden,
        intermediate_size=geometry.inner,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.key_heads,
        vocab_size=geometry.vocabulary,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=geometry.tied,
    )
    vision = {
        "hidden_size": geometry.vision_hidden,
        "intermediate_size": geometry.vision_inner,
        "num_hidden_layers": geometry.vision_layers,
        "num_attention_heads": geometry.vision_heads,
        "image_size": [geometry.side, geometry.side],
        "patch_size": [14, 14],
        "attention_bias": True,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_id=image_token,
        image_seq_length=geometry.tokens_per_tile,
        tie_word_embeddings=geometry.tied,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = InternVLForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation="sdpa"
        )
    return model.eval()


class Samples:
    """Made-up samples; what a Corpus and its Loading would give."""

    def __init__(self, geometry: Geometry, *, count: int, seed: int = 0) -> None:
        rng = random.Random(seed)  # noqa: S311
        self.geometry, self.rng = geometry, rng
        self.shapes = [
            (
                rng.choices(list(TILES), list(TILES.values()))[0],
                rng.randint(*geometry.prompt),
                rng.randint(*geometry.answer),
            )
            for _ in range(count)
        ]

    @cached_property
    def lengths(self) -> list[Length]:
        """Of each sample."""
        each = self.geometry.tokens_per_tile
        return [
            Length(tokens=tiles * each + prompt + answer, image_tokens=tiles * each, labelled=answer)
            for tiles, prompt, answer in self.shapes
        ]

    @cached_property
    def _pixels(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn((16, 3, self.geometry.side, self.geometry.side), generator=generator)

    def example(self, number: int) -> Example:
        """One sample: its prompt, its image tokens, its answer."""
        tiles, prompt, answer = self.shapes[number]
        rng = random.Random(number)  # noqa: S311
        ids = [rng.randrange(10, self.geometry.vocabulary) for _ in range(prompt)]
        ids += [IMAGE] * (tiles * self.geometry.tokens_per_tile)
        answers = [rng.randrange(10, self.geometry.vocabulary) for _ in range(answer)]
        return Example(
            input_ids=ids + answers,
            labels=[IGNORED] * len(ids) + answers,
            pixels=self._pixels[[(number + tile) % len(self._pixels) for tile in range(tiles)]],
            tiles_per_image=(tiles,),
            tokens_cut=0,
        )

    def load(self, step: int, plan: StepPlan, *, packed: bool) -> LoadedStep:
        """The step's tensors, in memory that the GPU can fetch from."""
        collate = pack if packed else pad
        loaded = LoadedStep(
            step=step,
            plan=plan,
            tensors=tuple(
                collate([self.example(number) for _, number in batch.places]) for batch in plan.micro_batches
            ),
        )
        return loaded.pin_memory() if torch.cuda.is_available() else loaded


def count_flops(geometry: Geometry, shape: tuple[int, int, int]) -> float:
    """Floating-point operations that training on one sample needs: products of matrices only, none made twice."""
    tiles, prompt, answer = shape
    tokens = tiles * geometry.tokens_per_tile + prompt + answer
    size = geometry.hidden // geometry.heads
    layer = geometry.hidden * (2 * geometry.hidden + 2 * geometry.key_heads * size + 3 * geometry.inner)
    forward = 2 * tokens * geometry.layers * layer + 2 * tokens**2 * geometry.hidden * geometry.layers
    head = 2 * answer * geometry.hidden * geometry.vocabulary
    wide, inner = geometry.vision_hidden, geometry.vision_inner
    vision = 2 * geometry.patches * (4 * wide**2 + 2 * wide * inner) + 4 * geometry.patches**2 * wide
    return (
        2 * (forward + head)
        + 2 * tokens**2 * geometry.hidden * geometry.layers
        + tiles * geometry.vision_layers * vision
    )
