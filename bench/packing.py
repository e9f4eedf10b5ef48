"""Time training on packed against padded micro-batches: `python -m bench.packing`; prints JSON.

The same samples, whose lengths are spread as the field's are, the same small model and LoRA, float32 on one thread of
the CPU; micro-batches and their tensors as the product plans and makes them, forward and backward. Counted are the
samples' own tokens, never padding. Padded is the original's recipe: four samples as they come, filled up to the
longest. Without a GPU attention within packed samples takes a mask that grows with the micro-batch squared, so that
packing gains less here than where the kernel for sequences of various lengths runs (bench.gpu_train).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from typing import Any

import torch
from bench.gpu_samples import GEOMETRIES, Geometry, Samples, build_base

from tandem.model.internvl import make_trainable
from tandem.model.speed import Speed, make_fast
from tandem.spec.train import LoraSpec, TrainSpec
from tandem.train.adapter import attach_adapter, trainable_weights
from tandem.train.collate import pack, pad
from tandem.train.steps import plan_step

GEOMETRY = replace(GEOMETRIES["small"], layers=2, hidden=256, inner=704, side=112)
"""Text makes up a larger share than in the field, so that lengths vary as much with small images."""


class VariedSamples(Samples):
    """Prompts and answers whose lengths are as uneven as those of real answers: many short, few long."""

    def __init__(self, geometry: Geometry, *, count: int, seed: int = 0) -> None:
        super().__init__(geometry, count=count, seed=seed)
        draw = random.Random(seed)  # noqa: S311
        self.shapes = [
            (tiles, prompt, min(500, round(draw.lognormvariate(4.0, 0.8)))) for tiles, prompt, _ in self.shapes
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--global-size", type=int, default=64, help="samples of a step")
    parser.add_argument("--packed-tokens", type=int, default=512)
    parser.add_argument("--per-device", type=int, default=4, help="samples of a padded micro-batch")
    parser.add_argument("--repeat", type=int, default=3, help="the fastest counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = VariedSamples(GEOMETRY, count=options.global_size)
    lengths = [length.tokens for length in samples.lengths]
    packed = {"packedTokens": options.packed_tokens}
    ways = {
        "padded": Way(samples, {"perDevice": options.per_device}, options.global_size, Speed()),
        "packed": Way(samples, packed, options.global_size, Speed(packed_attention=True)),
        "packed, plain attention": Way(samples, packed, options.global_size, Speed()),
    }
    for _ in range(options.repeat):  # in turns, so that a busy machine is one for all
        for way in ways.values():
            way.step()
    measured = {name: way.describe() for name, way in ways.items()}
    for found in measured.values():
        found["times_faster"] = round(measured["padded"]["seconds"] / found["seconds"], 2)
    print(
        json.dumps(
            {
                "samples": len(lengths),
                "tokens": {"shortest": min(lengths), "mean": sum(lengths) / len(lengths), "longest": max(lengths)},
                "ways": measured,
            }
        )
    )


class Way:
    """One way to train: its model, and the micro-batches of one optimizer step."""

    def __init__(self, samples: Samples, batch: dict[str, int], global_size: int, speed: Speed) -> None:
        train = TrainSpec.model_validate(
            {
                "meta": "none",
                "lora": {"dropout": 0.0},
                "maxLength": 512,
                "batch": {"globalSize": global_size, **batch},
                "steps": 1,
            }
        )
        make = pad if train.batch.packed_tokens is None else pack
        self.plan = plan_step(0, samples.lengths, train=train, seed=0, rank=0)
        self.tensors = [
            make([samples.example(number) for _, number in micro.places]) for micro in self.plan.micro_batches
        ]
        self.model: Any = make_trainable(build_base(samples.geometry, dtype=torch.float32, device="cpu"))
        attach_adapter(self.model, LoraSpec(dropout=0.0), seed=0, base="random").train()
        assert not make_fast(self.model, speed)
        self.seconds: list[float] = []
        self.step()  # what only the first one costs
        self.seconds.clear()

    def step(self) -> None:
        """Forward and backward passes of one optimizer step."""
        for weight in trainable_weights(self.model):
            weight.grad = None
        started, self.loss = time.perf_counter(), 0.0
        for batch, micro in zip(self.tensors, self.plan.micro_batches, strict=True):
            loss = self.model(**batch, normaliser=micro.normaliser).loss
            loss.backward()
            self.loss += float(loss.detach())
        self.seconds.append(time.perf_counter() - started)

    def describe(self) -> dict[str, Any]:
        """The fastest step, the samples' own tokens a second, and places in the tensors for each of those."""
        places = sum(tensor["input_ids"].numel() for tensor in self.tensors)
        return {
            "seconds": round(min(self.seconds), 3),
            "tokens_per_second": round(self.plan.tokens / min(self.seconds)),
            "places_for_a_token": round(places / self.plan.tokens, 2),
            "loss": self.loss,
        }


if __name__ == "__main__":
    main()
