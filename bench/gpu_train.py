"""Training, the original's way and ours, in one run: `python -m bench.gpu_train --geometry 2b`; prints JSON.

Geometries and samples: bench/gpu_samples.py. Ours is the product: its plan of a step, its packing, its Trainer, its
model and optimizer. The baseline is the original's recipe: padded micro-batches of 4, checkpointed language model,
float32 logits at every position, LoRA in float32 with dropout 0.05. Pixels lie ready in memory; bench.gpu_feed
measures training from files.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bench.gpu_machine import PEAK_FLOPS, describe_machine
from bench.gpu_profile import Profile, Watch
from bench.gpu_samples import GEOMETRIES, Geometry, Samples, build_base, count_flops

from tandem.model.compilation import read_compilation
from tandem.model.internvl import make_trainable
from tandem.model.speed import Speed, make_fast, set_checkpointing
from tandem.model.tiles import TileGeometry
from tandem.spec.train import LoraSpec, TrainSpec
from tandem.train.adapter import attach_adapter, trainable_weights
from tandem.train.collate import pad
from tandem.train.fitting import Memory
from tandem.train.ranks import Ranks
from tandem.train.samples import Example
from tandem.train.steps import LoadedStep, StepPlan, plan_step
from tandem.train.trying import settle_memory

ORIGINAL_BATCH = 4
"""Samples of the original's padded micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train."""

    speed: Speed | None
    """None: the original's recipe."""
    packed_tokens: int | None = 16384
    """None: padded in fours, as the original does."""
    dropout: float = 0.05
    lora_dtype: str = "float32"
    checkpointed: bool = False
    autocast: bool = False
    workers: int = 0
    fused_optimizer: bool | None = None
    all_logits: bool = False
    """transformers' own forward and loss in the place of ours; needs padded samples."""


EVERYTHING = Speed(packed_attention=True, fused_lora=True, fused_loss=True, compiled=True)
VARIANTS = {
    "baseline": Variant(speed=None),
    "baseline, autocast": Variant(speed=None, autocast=True),
    "labels only": Variant(speed=Speed(), packed_tokens=None, checkpointed=True),
    "+ no checkpointing": Variant(speed=Speed(), packed_tokens=None),
    "+ packed": Variant(speed=Speed()),
    "packed attention": Variant(speed=Speed(packed_attention=True)),
    "packed attention, 8192": Variant(speed=Speed(packed_attention=True), packed_tokens=8192),
    "+ fused loss": Variant(speed=Speed(packed_attention=True, fused_loss=True)),
    "+ fused LoRA": Variant(speed=replace(EVERYTHING, compiled=False)),
    "everything": Variant(speed=EVERYTHING),
    "everything, 8192": Variant(speed=EVERYTHING, packed_tokens=8192),
    "everything, 11008": Variant(speed=EVERYTHING, packed_tokens=11008),
    "everything, 32768": Variant(speed=EVERYTHING, packed_tokens=32768),
    "everything, 8192, checkpointed": Variant(speed=EVERYTHING, packed_tokens=8192, checkpointed=True),
    "everything but fused LoRA": Variant(speed=replace(EVERYTHING, fused_lora=False)),
    "everything but fused loss": Variant(speed=replace(EVERYTHING, fused_loss=False)),
    "everything but the fused optimizer": Variant(speed=EVERYTHING, fused_optimizer=False),
    "everything, dropout 0": Variant(speed=EVERYTHING, dropout=0.0),
}


def divide_as_ours(model: Any) -> Any:
    """Let transformers' own forward take the number that the sum of token losses is divided by; in place."""
    forward = model.forward
    model.forward = lambda *, normaliser, **batch: forward(**batch, num_items_in_batch=normaliser, use_cache=False)
    return model


def describe_training(variant: Variant, *, global_size: int, steps: int, learning_rate: float = 4e-5) -> TrainSpec:
    """The Run file's section for a variant."""
    return TrainSpec.model_validate(
        {
            "meta": "none",
            "lora": {"dropout": variant.dropout, "dtype": variant.lora_dtype},
            "maxLength": min(2800, variant.packed_tokens or 2800),
            "batch": {
                "globalSize": global_size,
                "packedTokens": variant.packed_tokens,
                "perDevice": ORIGINAL_BATCH,
            },
            "optimizer": {"learningRate": learning_rate},
            "steps": steps,
            "zero": {"stage": 0},
            "gradientCheckpointing": variant.checkpointed,
            "workers": variant.workers,
            "speed": {"fusedOptimizer": variant.fused_optimizer},
            "logEverySteps": 1,
        }
    )


class _Loader:
    def __init__(self, loaded: list[LoadedStep], steps: int) -> None:
        self.loaded, self.steps = loaded, steps
        self.dataset = SimpleNamespace(loading=None)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[LoadedStep]:
        for step in range(self.steps):
            yield self.loaded[step % len(self.loaded)]


@dataclass(kw_only=True)
class Bench:
    """What all variants share."""

    geometry: Geometry
    samples: Samples
    global_size: int
    warm: int
    steps: int
    device: str
    dtype: torch.dtype
    folder: Path
    profile: Path | None = None
    learning_rate: float = 4e-5
    fit: bool = False
    """Whether our ways find by themselves what fits into memory."""
    memory: Memory | None = None
    """What was found last."""

    def run(self, name: str, variant: Variant) -> dict[str, Any]:
        """Train a few steps one way, and say how fast and in how much memory."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch.compiler.reset()
        self.memory = None
        compiled_before = read_compilation()
        began = time.perf_counter()
        model = build_base(self.geometry, dtype=self.dtype, device=self.device)
        run = self._train_as_original if variant.speed is None else self._train
        watch, samples, tokens, flops = run(name, variant, model)
        spans = [later - earlier for earlier, later in zip(watch.times, watch.times[1:], strict=False)]
        measured = spans[max(0, self.warm - 1) :]
        seconds = sum(measured) / len(measured)
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        return {
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
            "tokens_per_sample": tokens / samples,
            "peak_gb": peak / 1e9,
            "mfu": flops / seconds / PEAK_FLOPS,
            "step_seconds": measured,
            "first_step_seconds": watch.times[0] - self._started,
            "build_seconds": self._started - began,
            "samples_per_step": samples,
            "compile": asdict(read_compilation().since(compiled_before)),
            "memory": None if self.memory is None else self.memory.model_dump(),
            "losses": watch.losses,
        }

    def _train(self, name: str, variant: Variant, model: Any) -> tuple[Watch, float, float, float]:
        from tandem.train.trainer import Calendar, Hooks, StepTrainer, describe_arguments

        count = self.warm + self.steps
        train = self._describe(variant)
        base = divide_as_ours(model) if variant.all_logits else make_trainable(model)
        adapted = attach_adapter(base, train.lora, seed=0, base="random")
        assert variant.speed is not None
        notes = make_fast(base, variant.speed)
        assert not notes, notes
        set_checkpointing(base, on=variant.checkpointed)
        if self.fit:
            variant = self._fit(variant, adapted)
        plans = self._plan_steps(variant)
        packed = variant.packed_tokens is not None
        loaded = [self.samples.load(step, plan, packed=packed) for step, plan in enumerate(plans)]
        watch = Watch()
        hooks = Hooks(
            stop_asked=lambda: False,
            on_begin=lambda: None,
            on_step=lambda loaded: watch.step(loaded),  # noqa: PLW0108 - a profile takes its place
            on_metrics=lambda _, values: watch.losses.append(values["loss"]),
            validate=lambda _: None,
            save_adapter=lambda _: None,
            on_saved=lambda *_: None,
        )
        loader: Any = _Loader(loaded, count)
        trainer = StepTrainer(
            model=adapted,
            arguments=describe_arguments(train, steps=count, folder=self.folder / "trainer", seed=0),
            train=train,
            loader=loader,
            calendar=Calendar(steps=count, checkpoint_every=10**9, validate_every=None),
            ranks=Ranks(),
            hooks=replace(hooks, on_begin=self._start),
        )
        trainer._save_checkpoint = lambda *_, **__: None  # type: ignore[method-assign]
        torch.manual_seed(0)
        with self._profiled(name, watch):
            trainer.train()
        chosen = [[number for batch in plan.micro_batches for _, number in batch.places] for plan in plans]
        return self._sum_up(watch, chosen)

    def _train_as_original(self, name: str, variant: Variant, model: Any) -> tuple[Watch, float, float, float]:
        lora = LoraSpec(dropout=variant.dropout)
        adapted = attach_adapter(model, lora, seed=0, base="random").train()
        # After the adapter: else peft would have the vision tower's inputs require gradients, and train through it.
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        weights = trainable_weights(adapted)
        optimizer = torch.optim.AdamW(weights, lr=4e-5, weight_decay=0.01, fused=self.device == "cuda")
        chosen = [
            sorted(number for batch in plan.micro_batches for _, number in batch.places)
            for plan in self._plan_steps(variant)
        ]
        loaded = [
            [_pad_for_original([self.samples.example(number) for number in numbers[start : start + ORIGINAL_BATCH]])
             for start in range(0, len(numbers), ORIGINAL_BATCH)]
            for numbers in chosen
        ]  # fmt: skip
        watch = Watch()
        self._start()
        with self._profiled(name, watch):
            for step in range(self.warm + self.steps):
                total, batches = 0.0, loaded[step % len(loaded)]
                for batch in batches:
                    moved = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
                    with torch.autocast(self.device, torch.bfloat16, enabled=variant.autocast):
                        loss = adapted(**moved, use_cache=False).loss / len(batches)
                    loss.backward()
                    total += loss.item()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                watch.losses.append(total)
                watch.step()
        return self._sum_up(watch, chosen)

    def _fit(self, variant: Variant, adapted: Any) -> Variant:
        """The variant with what fits into memory, as a training that leaves it open finds it."""
        geometry = TileGeometry(tile_size=self.geometry.side)
        loading: Any = SimpleNamespace(corpus=self.samples, rules=SimpleNamespace(geometry=geometry))
        asked = self._describe(variant).model_copy(update={"gradient_checkpointing": None})
        self.memory = settle_memory(adapted, asked, loading, Ranks(), found=None, on_trial=lambda: None)
        return replace(
            variant, packed_tokens=self.memory.packed_tokens, checkpointed=self.memory.gradient_checkpointing
        )

    def _describe(self, variant: Variant) -> TrainSpec:
        steps = self.warm + self.steps
        return describe_training(variant, global_size=self.global_size, steps=steps, learning_rate=self.learning_rate)

    def _plan_steps(self, variant: Variant) -> list[StepPlan]:
        """Two steps, which are taken in turn; all variants have the same samples in them."""
        train = self._describe(variant)
        return [plan_step(step, self.samples.lengths, train=train, seed=0, rank=0) for step in range(2)]

    def _sum_up(self, watch: Watch, plans: list[list[int]]) -> tuple[Watch, float, float, float]:
        """Samples, tokens and operations of a measured step, the mean of all; plans are taken in turn."""
        # The first step's time is never known: nothing was timed before it.
        measured = range(max(1, self.warm), self.warm + self.steps)
        numbers = [number for step in measured for number in plans[step % len(plans)]]
        steps = len(measured)
        tokens = sum(self.samples.lengths[number].tokens for number in numbers)
        flops = sum(count_flops(self.geometry, self.samples.shapes[number]) for number in numbers)
        return watch, len(numbers) / steps, tokens / steps, flops / steps

    def _start(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self._started = time.perf_counter()

    def _profiled(self, name: str, watch: Watch) -> Any:
        import contextlib

        if self.profile is None:
            return contextlib.nullcontext()
        return Profile(self.profile, name, watch, self.warm)


def _pad_for_original(examples: list[Example]) -> dict[str, torch.Tensor]:
    padded = pad(examples)
    return {name: tensor.pin_memory() for name, tensor in padded.items()} if torch.cuda.is_available() else padded


def compare_with_baseline(variants: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Each variant's samples a second over the baseline's; None where one of the two was not measured."""
    baseline = variants.get("baseline", {}).get("samples_per_second")
    return {
        name: measured["samples_per_second"] / baseline if baseline and "samples_per_second" in measured else None
        for name, measured in variants.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Run the chosen variants; each is compared with the baseline, if that is among them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="2b")
    parser.add_argument("--variants", default="baseline;everything", help="names with ; between them, or all")
    parser.add_argument("--global-size", type=int, default=96)
    parser.add_argument("--warm", type=int, default=2, help="steps before measuring")
    parser.add_argument("--steps", type=int, default=3, help="steps measured")
    parser.add_argument("--packed-tokens", type=int, help="instead of each variant's own")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--profile", type=Path, help="a folder for each variant's kernels")
    parser.add_argument(
        "--fit", action="store_true", help="find what fits into memory, from each variant's tokens down"
    )
    parser.add_argument(
        "--memory-share", type=float, help="part of the GPU's memory that may be used, as if it were less"
    )
    given = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    if given.memory_share and cuda:
        torch.cuda.set_per_process_memory_fraction(given.memory_share)
    geometry = GEOMETRIES[given.geometry]
    names = list(VARIANTS) if given.variants == "all" else given.variants.split(";")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    result: dict[str, Any] = {"machine": describe_machine(), "geometry": given.geometry, "variants": {}}
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            geometry=geometry,
            samples=Samples(geometry, count=max(2 * given.global_size, 16)),
            global_size=given.global_size,
            warm=given.warm,
            steps=given.steps,
            device="cuda" if cuda else "cpu",
            dtype=torch.bfloat16 if cuda else torch.float32,
            folder=Path(folder),
            profile=given.profile,
            fit=given.fit,
        )
        for name in names:
            variant = VARIANTS[name]
            if given.packed_tokens and variant.packed_tokens:
                variant = replace(variant, packed_tokens=given.packed_tokens)
            try:
                measured = bench.run(name, variant)
            except Exception as error:  # noqa: BLE001 - one way that fails must not hide the others
                traceback.print_exc()
                measured = {"failure": f"{type(error).__name__}: {error}"[:500]}
            result["variants"][name] = {**measured, "settings": _describe(variant)}
            print(name, json.dumps({k: v for k, v in measured.items() if k != "losses"}), file=sys.stderr, flush=True)
    for name, ratio in compare_with_baseline(result["variants"]).items():
        result["variants"][name]["ratio"] = ratio
        print(name, ratio, file=sys.stderr)
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return int(any("failure" in measured for measured in result["variants"].values()))


def _describe(variant: Variant) -> dict[str, Any]:
    return asdict(variant)


if __name__ == "__main__":
    sys.exit(main())
