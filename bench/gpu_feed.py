"""How long the GPU waits for data when training from JPEG and PNG files: `python -m bench.gpu_feed`; prints JSON.

Makes images (half JPEG, half PNG, 448 x 448 to 1344 x 896, so 1 to 7 tiles) and a JSONL of questions and answers in
a temporary folder, and trains on them as the product does: its checks, its worker processes, its Trainer. Only the
model's weights are random. Waiting is the time that the training process spends in asking for the next step, after
the GPU has done the one before; the first step, before which workers have nothing ready, is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from bench.gpu_machine import describe_machine
from bench.gpu_samples import GEOMETRIES, build_base
from bench.gpu_train import EVERYTHING, Variant, describe_training

from tandem.model.internvl import make_trainable
from tandem.model.loading import load_tokenizer
from tandem.model.speed import Speed, make_fast
from tandem.model.tiles import TileGeometry
from tandem.model.tiny import make_tiny_model
from tandem.train.adapter import attach_adapter
from tandem.train.corpus import read_corpus
from tandem.train.ranks import Ranks
from tandem.train.samples import ReadingRules
from tandem.train.steps import LoadedStep, Loading, StepLoader, StepSource
from tandem.train.trainer import Calendar, Hooks, StepTrainer, describe_arguments

GRIDS = [(1, 1), (2, 1), (3, 1), (2, 2), (5, 1), (3, 2)]
"""Tiles across and down; with the thumbnail 1, 3, 4, 5, 6 and 7 tiles."""


def write_files(folder: Path, *, samples: int, side: int, answer: int) -> Path:
    """Images and annotations; returns the meta file."""
    from PIL import Image

    def make(number: int) -> str:
        rng = random.Random(number)  # noqa: S311
        across, down = GRIDS[number % len(GRIDS)]
        name = f"{number}.{'jpg' if number // len(GRIDS) % 2 else 'png'}"
        coarse = Image.frombytes("RGB", (48, 48), rng.randbytes(48 * 48 * 3))
        coarse.resize((across * side, down * side), Image.Resampling.BICUBIC).save(folder / name, quality=90)
        words = " ".join(rng.choice(["please", "look", "image", "step"]) for _ in range(answer))
        turns = [
            {"from": "system", "value": "Look at the image."},
            {"from": "human", "value": "<image>\nPlease look at the image and answer the question."},
            {"from": "gpt", "value": words},
        ]
        return json.dumps({"id": str(number), "image": name, "conversations": turns})

    with ThreadPoolExecutor(16) as pool:
        lines = list(pool.map(make, range(samples)))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    entry = {"root": ".", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
    meta = folder / "meta.json"
    meta.write_text(json.dumps({"made": entry}))
    return meta


class WatchedLoader(StepLoader):
    """The product's loader, with the time that each step was waited for."""

    waits: list[float]
    ends: list[float]

    def __iter__(self) -> Iterator[LoadedStep]:
        """Yield as the product does."""
        self.waits, self.ends = [], []
        steps = super().__iter__()
        while True:
            began = time.perf_counter()
            loaded = next(steps, None)
            if loaded is None:
                return
            self.ends.append(time.perf_counter())
            self.waits.append(self.ends[-1] - began)
            yield loaded


def main(argv: list[str] | None = None) -> int:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="2b")
    parser.add_argument("--samples", type=int, default=480)
    parser.add_argument("--answer", type=int, default=400, help="words of an answer, about a token each")
    parser.add_argument("--global-size", type=int, default=64)
    parser.add_argument("--packed-tokens", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    geometry = GEOMETRIES[given.geometry]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_model(folder / "tokenizer", seed=0)
        tokenizer = load_tokenizer(folder / "tokenizer")
        meta = write_files(folder, samples=given.samples, side=geometry.side, answer=given.answer)
        variant = Variant(
            speed=EVERYTHING if cuda else Speed(), packed_tokens=given.packed_tokens, workers=given.workers
        )
        train = describe_training(variant, global_size=given.global_size, steps=given.steps)
        rules = ReadingRules(
            max_tiles=train.tiles.max,
            max_length=train.max_length,
            geometry=TileGeometry(tile_size=geometry.side, patch_size=14, thumbnail=True),
        )
        began = time.perf_counter()
        corpus = read_corpus(meta, tokenizer, rules=rules, tolerance=_none_lost(), threads=given.workers)
        checked = time.perf_counter() - began
        image_token: Any = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
        base = make_trainable(
            build_base(
                geometry,
                dtype=torch.bfloat16 if cuda else torch.float32,
                device="cuda" if cuda else "cpu",
                image_token=image_token,
            )
        )
        adapted = attach_adapter(base, train.lora, seed=0, base="random")
        assert variant.speed is not None
        assert not make_fast(base, variant.speed)
        loading = Loading(corpus=corpus, tokenizer=tokenizer, rules=rules, packed=True, seed=0)
        loader = WatchedLoader(StepSource(loading, None, train=train, rank=0), given.steps, workers=given.workers)
        trainer = StepTrainer(
            model=adapted,
            arguments=describe_arguments(train, steps=given.steps, folder=folder / "trainer", seed=0),
            train=train,
            loader=loader,
            calendar=Calendar(steps=given.steps, checkpoint_every=10**9, validate_every=None),
            ranks=Ranks(),
            hooks=Hooks(
                stop_asked=lambda: False,
                on_begin=lambda: None,
                on_step=lambda _: None,
                on_metrics=lambda *_: None,
                validate=lambda _: None,
                save_adapter=lambda _: None,
                on_saved=lambda *_: None,
            ),
        )
        trainer.train()
        tokens = sum(length.tokens for length in corpus.lengths) / len(corpus.lengths)
    # From the second step's arrival on: the first step also compiles.
    seconds = loader.ends[-1] - loader.ends[1]
    waited = sum(loader.waits[2:])
    result = {
        "machine": describe_machine(),
        "geometry": given.geometry,
        "workers": given.workers,
        "mean_tokens": tokens,
        "check_seconds": checked,
        "samples_per_second": given.global_size * (given.steps - 2) / seconds,
        "waiting_share": waited / seconds,
        "waits": loader.waits,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return 0


def _none_lost() -> Any:
    from tandem.train.corpus import Tolerance

    return Tolerance()


if __name__ == "__main__":
    sys.exit(main())
