"""Training, the original's way and ours, in one run: `python bench/gpu_train.py --geometry 2b`; prints JSON.

A named geometry of InternVL3 with random weights, made on the device; samples from a fixed distribution with the
field's mean of 1,640 tokens: 1 to 7 tiles of 256 tokens (4.2 on average), 60 to 200 tokens of prompt, 291 to 589 of
answer. Ours is the product: its plan of a step, its packing, its Trainer, its model and optimizer. The baseline is
the original's recipe: padded micro-batches of 4, checkpointed language model, float32 logits at every position,
LoRA in float32 with dropout 0.05. Pixels lie ready in memory; bench.gpu_feed measures training from files.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tandem.model.compilation import read_compilation
from tandem.model.internvl import IGNORED, make_trainable
from tandem.model.speed import Speed, make_fast, set_checkpointing
from tandem.model.tiles import TileGeometry
from tandem.spec.train import LoraSpec, TrainSpec
from tandem.train.adapter import attach_adapter, trainable_weights
from tandem.train.collate import pack, pad
from tandem.train.fitting import Memory
from tandem.train.ranks import Ranks
from tandem.train.samples import Example, Length
from tandem.train.steps import LoadedStep, StepPlan, plan_step
from tandem.train.trying import settle_memory

IMAGE = 5
"""Token id of an image token in the made-up vocabulary."""

PEAK_FLOPS = 989e12
"""Of one H200, dense bfloat16, by its data sheet."""

ORIGINAL_BATCH = 4
"""Samples of the original's padded micro-batch."""

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
    "everything, dropout 0": Variant(speed=EVERYTHING, dropout=0.0),
}


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


def divide_as_ours(model: Any) -> Any:
    """Let transformers' own forward take the number that the sum of token losses is divided by; in place."""
    forward = model.forward
    model.forward = lambda *, normaliser, **batch: forward(**batch, num_items_in_batch=normaliser, use_cache=False)
    return model


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
            "logEverySteps": 1,
        }
    )


class Watch:
    """Times of steps, and optionally a profile of the last."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def step(self, _: Any = None) -> None:
        """A step's loss is known: everything before it has been done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


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
        return _Profile(self.profile, name, watch, self.warm)


class _Profile:
    """Profiles one step after the warm-up, and writes its kernels, longest first, and when the GPU had none."""

    def __init__(self, folder: Path, name: str, watch: Watch, warm: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.path = folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.txt"
        self.watch, self.warm, self.profiler = watch, warm, profile(activities=[ProfilerActivity.CUDA])

    def __enter__(self) -> None:
        plain: Callable[..., None] = self.watch.step

        def step(_: Any = None) -> None:
            plain()
            if len(self.watch.times) == self.warm:
                self.profiler.start()
            elif len(self.watch.times) == self.warm + 1:
                self.profiler.stop()
                span = 1e3 * (self.watch.times[-1] - self.watch.times[-2])
                profiler: Any = self.profiler
                kernels = [
                    (event.time_range.start / 1e3, event.time_range.end / 1e3, event.name)
                    for event in profiler.events()
                    if event.device_type.name == "CUDA"
                ]
                self.path.write_text("\n".join(describe_kernels(kernels, span)) + "\n")

        object.__setattr__(self.watch, "step", step)

    def __exit__(self, *_: object) -> None:
        return None


def describe_kernels(kernels: Sequence[tuple[float, float, str]], span: float) -> list[str]:
    """A profile's lines, from (start, end, name) of each kernel and the time of the whole step, all in ms."""
    spent: dict[str, list[float]] = {}
    for start, end, name in kernels:
        spent.setdefault(name[:150], []).append(end - start)
    gaps = find_gaps(kernels)
    idle = sum(length for length, *_ in gaps)
    return [
        f"{sum(map(sum, spent.values())):10.2f} ms in kernels, {span:.2f} ms the step as profiled",
        f"{idle:10.2f} ms in {len(gaps)} gaps between kernels",
        *(
            f"{sum(times):10.2f} ms {len(times):7d} x {name}"
            for name, times in sorted(spent.items(), key=lambda item: -sum(item[1]))[:80]
        ),
        "the longest gaps: ms, at ms, before and after",
        *(f"{length:10.3f} {at:10.1f} {before[:60]} | {after[:60]}" for length, at, before, after in gaps[:40]),
    ]


def find_gaps(kernels: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str, str]]:
    """(length, begin since the first kernel, kernel before, kernel after) of each time without a kernel, longest first.

    kernels are (start, end, name); those of other streams may overlap.
    """
    gaps = []
    ordered = sorted(kernels)
    begin, busy_until, last = ordered[0] if ordered else (0.0, 0.0, "")
    for start, end, name in ordered[1:]:
        if start > busy_until:
            gaps.append((start - busy_until, busy_until - begin, last, name))
        if end > busy_until:
            busy_until, last = end, name
    return sorted(gaps, reverse=True)


def _pad_for_original(examples: list[Example]) -> dict[str, torch.Tensor]:
    padded = pad(examples)
    return {name: tensor.pin_memory() for name, tensor in padded.items()} if torch.cuda.is_available() else padded


def describe_machine() -> dict[str, str | None]:
    """What the figures were measured on."""
    import peft
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "driver": _read_driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "command": " ".join(["python", *sys.argv]),
    }


def _read_driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError):
        return None


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
