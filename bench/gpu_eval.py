"""Generation for an evaluation, the original's way and ours, in one run: `python -m bench.gpu_eval`; prints JSON.

A named geometry with random weights. Prompts: tiles drawn evenly from --tiles (each of 256 tokens at the real
geometries), words from 60 to 200 tokens, seed 0; every text has --new tokens, because there is no stop token, or is
cut at a length drawn evenly from --least-new to --new.
The baseline is transformers' generate, one prompt at a time, over prompts spread evenly over the lengths.
Pixels lie in memory as bytes: decoding images is no part of either.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from bench.gpu_machine import PEAK_FLOPS, describe_machine
from bench.gpu_samples import GEOMETRIES, IMAGE, build_base

from tandem.evaluate.fast.attention import (
    attend_each,
    attend_gathered,
    attend_last,
    attend_masked,
    attend_packed,
    attend_paged,
)
from tandem.evaluate.fast.cache import PAGE, count_pages
from tandem.evaluate.fast.engine import Engine, Options, prepare_engine
from tandem.evaluate.fast.forced import force_packed, force_plain
from tandem.evaluate.fast.prefill import Prompt
from tandem.evaluate.fast.schedule import Machine, Request, generate_texts
from tandem.evaluate.fast.vision import normalise_pixels
from tandem.evaluate.packed import PackedTexts
from tandem.model.internvl import make_trainable

VARIANTS = {
    "packed": Options(compiled=True, captured=True),
    "not captured": Options(compiled=True, captured=False),
    "not compiled": Options(compiled=False, captured=True),
    "neither": Options(compiled=False, captured=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="2b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tiles", type=int, nargs=2, default=[4, 38], metavar=("LEAST", "MOST"))
    parser.add_argument("--new", type=int, default=256, help="tokens of a text")
    parser.add_argument("--least-new", type=int, help="tokens of the shortest text that is timed; default: --new")
    parser.add_argument(
        "--groups", type=int, default=PackedTexts.least_samples, help="samples that are generated in one stream"
    )
    parser.add_argument("--row-tokens", type=int, help="longer prompts are read in chunks; default: what is measured")
    parser.add_argument("--baseline", type=int, default=3, help="prompts that the baseline generates")
    parser.add_argument("--equal", type=int, default=4, help="prompts whose logits are compared")
    parser.add_argument("--equal-new", type=int, default=48, help="tokens of their texts")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["packed"])
    parser.add_argument("--adapter", type=int, default=0, help="rank of a LoRA that is timed, and compared in float32")
    parser.add_argument("--profile", type=Path, help="folder for tables of the kernels' times")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    base = build_base(GEOMETRIES[options.geometry], dtype=torch.bfloat16, device=options.device)
    network: Any = make_trainable(base).requires_grad_(False)
    prompts = draw_prompts(network, options.samples, options.tiles)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "geometry": options.geometry,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "samples": len(prompts),
        "prompt_tokens": sum(len(prompt.ids) for prompt in prompts),
        "shortest_prompt": min(len(prompt.ids) for prompt in prompts),
        "longest_prompt": max(len(prompt.ids) for prompt in prompts),
        "tiles": sum(len(prompt.pixels) for prompt in prompts),
        "new_tokens": options.new,
        "least_new_tokens": options.least_new,
        "groups": options.groups,
    }
    report["kernels"] = attempt(compare_kernels, network)
    report["baseline"] = attempt(time_baseline, network, prompts, options)
    report["ways"] = {name: attempt(time_packed, network, prompts, options, name) for name in options.variants}
    report["equality"] = {"bfloat16": attempt(compare, network, prompts, options)}
    if options.adapter:
        network = add_adapter(network, options.adapter)
        report["ways"][f"{options.variants[0]}, adapter"] = attempt(
            time_packed, network, prompts, options, options.variants[0]
        )
    report["equality"]["float32"] = attempt(compare, network.float(), prompts, options)
    for found in report["ways"].values():
        if "tokens_per_second" in found and "tokens_per_second" in report["baseline"]:
            found["ratio"] = found["tokens_per_second"] / report["baseline"]["tokens_per_second"]
    body = json.dumps(report, indent=2)
    if options.output is not None:
        options.output.write_text(body + "\n", encoding="utf-8")
    print(body)


def attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    """What the function finds, or how it failed: one way's failure must not cost the other ways' figures."""
    started = time.perf_counter()
    try:
        found: dict[str, Any] = function(*arguments)
    except Exception:  # noqa: BLE001
        found = {"failed": traceback.format_exc()}
        print(found["failed"], file=sys.stderr, flush=True)
    release()
    print(f"{function.__name__} {arguments[3:]}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return found


def add_adapter(network: Any, rank: int) -> Any:
    """The network with a LoRA of random factors on every projection of its language model."""
    from peft import LoraConfig, get_peft_model

    projections = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    adapted: Any = get_peft_model(network, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=projections))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return adapted.get_base_model().eval().requires_grad_(False)


def draw_prompts(network: Any, count: int, tiles: Sequence[int]) -> list[Prompt]:
    """Prompts of the distribution that this file names, the longest first."""
    drawn = torch.Generator().manual_seed(0)
    side, per_tile = int(network.config.vision_config.image_size[0]), int(network.config.image_seq_length)
    pool = torch.randint(256, (2 * tiles[1], side, side, 3), dtype=torch.uint8, generator=drawn)
    prompts = []
    for _ in range(count):
        number = int(torch.randint(tiles[0], tiles[1] + 1, (), generator=drawn))
        words = torch.randint(6, network.config.text_config.vocab_size, (200,), generator=drawn).tolist()
        words = words[: int(torch.randint(60, 201, (), generator=drawn))]
        first = int(torch.randint(tiles[1], (), generator=drawn))
        ids = [*words[:20], *[IMAGE] * (number * per_tile), *words[20:]]
        prompts.append(Prompt(ids=ids, pixels=pool[first : first + number]))
    return sorted(prompts, key=lambda prompt: -len(prompt.ids))


def time_baseline(network: Any, prompts: Sequence[Prompt], options: Any) -> dict[str, Any]:
    """The original's way: one by one."""
    chosen = choose_spread(prompts, options.baseline)
    generate_plainly(network, chosen[-1], 4)
    synchronise(options.device)
    times = []
    for prompt in chosen:
        started = time.perf_counter()
        generate_plainly(network, prompt, options.new)
        synchronise(options.device)
        times.append(time.perf_counter() - started)
    return {
        "prompts": [len(prompt.ids) for prompt in chosen],
        "seconds": times,
        "tokens_per_second": options.new * len(chosen) / sum(times),
        "samples_per_second": len(chosen) / sum(times),
    }


def generate_plainly(network: Any, prompt: Prompt, new: int) -> list[int]:
    """One text by transformers' generate, greedy, with its growing cache."""
    ids = torch.tensor([prompt.ids], device=network.device)
    with torch.inference_mode():
        output = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=normalise_pixels(prompt.pixels.to(network.device)).to(network.dtype),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    text: list[int] = output[0, len(prompt.ids) :].tolist()
    return text


class Cut:
    """An engine whose texts end at given lengths, in the order in which their prompts are read."""

    def __init__(self, engine: Engine, lengths: Sequence[int]) -> None:
        self.slots, self.pages, self.row_tokens = engine.slots, engine.pages, engine.row_tokens
        self.engine, self.left, self.ends = engine, list(lengths), [0] * engine.slots
        self.advance = engine.advance

    def read(self, prompts: Sequence[Prompt], slots: Sequence[int], pages: Sequence[Sequence[int]]) -> None:
        for slot in slots:
            self.ends[slot] = self.left.pop(0)
        self.engine.read(prompts, slots, pages)

    def look(self) -> tuple[list[bool], list[int]]:
        active, counts = self.engine.look()
        return (
            [each and count < end for each, count, end in zip(active, counts, self.ends, strict=True)],
            [min(count, end) for count, end in zip(counts, self.ends, strict=True)],
        )

    def take(self, slots: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        for slot in slots:
            self.engine.state.active[slot] = False
        return self.engine.take(slots, lengths)


class Timed:
    """A machine whose reading and stepping are timed, each to its end on the device."""

    def __init__(self, machine: Machine, device: str) -> None:
        self.slots, self.pages, self.row_tokens = machine.slots, machine.pages, machine.row_tokens
        self.look, self.take = machine.look, machine.take
        self.machine, self.device = machine, device
        self.reading = self.stepping = 0.0
        self.steps = 0

    def read(self, *arguments: Any) -> None:
        started = time.perf_counter()
        self.machine.read(*arguments)
        synchronise(self.device)
        self.reading += time.perf_counter() - started

    def advance(self, steps: int) -> None:
        started = time.perf_counter()
        self.machine.advance(steps)
        synchronise(self.device)
        self.stepping += time.perf_counter() - started
        self.steps += steps


def time_packed(network: Any, prompts: Sequence[Prompt], options: Any, name: str) -> dict[str, Any]:
    """Our way: once as it is, once with reading and stepping timed apart."""
    started = time.perf_counter()
    engine = make_engine(network, prompts, options.new, options, name)
    synchronise(options.device)
    prepared = time.perf_counter() - started
    lengths = draw_lengths(options)
    reset_peak(options.device)
    times = []
    for _ in range(2 if name == options.variants[0] else 1):
        started = time.perf_counter()
        texts = generate_packed(Cut(engine, lengths), prompts, options)
        synchronise(options.device)
        times.append(time.perf_counter() - started)
    timed = Timed(Cut(engine, lengths), options.device)
    again = generate_packed(timed, prompts, options)
    tokens = sum(map(len, texts.values()))
    flops = count_flops(network, prompts, lengths)
    if options.profile is not None and name == options.variants[0] and not engine.decoder.adapted:
        profile(engine, prompts, options.profile, name)
    return {
        "budget": asdict(engine.budget),
        "prepare_seconds": prepared,
        "seconds": times,
        "tokens_per_second": tokens / min(times),
        "samples_per_second": len(prompts) / min(times),
        "reading_seconds": timed.reading,
        "milliseconds_per_step": 1000 * timed.stepping / timed.steps,
        "steps": timed.steps,
        "same_again": again == texts,
        "peak_gigabytes": peak_gigabytes(options.device),
        "model_flop_utilisation": flops / min(times) / PEAK_FLOPS if options.device == "cuda" else None,
    }


@torch.inference_mode()
def generate_packed(machine: Machine, prompts: Sequence[Prompt], options: Any) -> dict[int, list[int]]:
    requests = [Request(index=index, prompt_tokens=len(prompt.ids)) for index, prompt in enumerate(prompts)]
    groups = [requests[start : start + options.groups] for start in range(0, len(requests), options.groups)]
    return dict(generate_texts(machine, groups, prompts.__getitem__, most_new_tokens=options.new, loaders=4))


def draw_lengths(options: Any) -> list[int]:
    """Tokens of each text that is timed."""
    least = options.new if options.least_new is None else options.least_new
    drawn = torch.Generator().manual_seed(2)
    return torch.randint(least, options.new + 1, (options.samples,), generator=drawn).tolist()


def make_engine(network: Any, prompts: Sequence[Prompt], new: int, options: Any, name: str) -> Engine:
    for layer in network.model.vision_tower.encoder.layer:
        layer._compiled_call_impl = None  # another engine may have compiled it
    engine = prepare_engine(
        network,
        [len(prompt.ids) for prompt in prompts],
        stop_ids=frozenset(),
        most_new_tokens=new,
        tile_size=int(network.config.vision_config.image_size[0]),
        options=VARIANTS[name],
    )
    if options.row_tokens is None:
        return engine
    return replace(engine, budget=replace(engine.budget, row_tokens=options.row_tokens))


def compare(network: Any, prompts: Sequence[Prompt], options: Any) -> dict[str, Any]:
    """Logits of the plain way's texts by both ways, and whether the texts differ only where two tokens are near."""
    chosen = list(prompts[-options.equal :])
    new = options.equal_new
    texts = [generate_plainly(network, prompt, new) for prompt in chosen]
    plain = [force_plain(network, prompt, text).float() for prompt, text in zip(chosen, texts, strict=True)]
    again = [force_in_steps(network, prompt, text).float() for prompt, text in zip(chosen, texts, strict=True)]
    engine = make_engine(network, chosen, new, options, options.variants[0])
    packed = [logits.float() for logits in force_packed(engine, chosen, texts)]
    requests = [Request(index=index, prompt_tokens=len(prompt.ids)) for index, prompt in enumerate(chosen)]
    ours = dict(engine.generate([requests], chosen.__getitem__, loaders=4))
    gaps = []
    for index, text in enumerate(texts):
        differing = [place for place, pair in enumerate(zip(text, ours[index], strict=True)) if pair[0] != pair[1]]
        if differing:
            best = plain[index][differing[0]].topk(2).values
            gaps.append(float(best[0] - best[1]))
    pairs = list(zip(plain, packed, strict=True))
    return {
        "prompts": [len(prompt.ids) for prompt in chosen],
        "new_tokens": new,
        "largest_difference": max(float((one - other).abs().max()) for one, other in pairs),
        "mean_difference": sum(float((one - other).abs().mean()) for one, other in pairs) / len(pairs),
        "largest_difference_of_two_plain_ways": max(
            float((one - other).abs().max()) for one, other in zip(plain, again, strict=True)
        ),
        "largest_logit": max(float(one.abs().max()) for one in plain),
        "same_choice": sum(float((one.argmax(1) == other.argmax(1)).float().mean()) for one, other in pairs)
        / len(pairs),
        "plain_with_cache_same_choice": sum(
            float((one.argmax(1).cpu() == torch.tensor(text)).float().mean())
            for one, text in zip(plain, texts, strict=True)
        )
        / len(pairs),
        "texts_that_differ": len(gaps),
        "gaps_where_they_part": gaps,
    }


@torch.inference_mode()
def force_in_steps(network: Any, prompt: Prompt, text: Sequence[int]) -> torch.Tensor:
    """The logits of `force_plain` as the plain way finds them when it generates: token by token, with a cache."""
    ids = torch.tensor([prompt.ids], device=network.device)
    pixels = normalise_pixels(prompt.pixels.to(network.device)).to(network.dtype)
    output = network(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1)
    found = [output.logits[0]]
    for token in text[:-1]:
        ids = torch.tensor([[token]], device=network.device)
        output = network(input_ids=ids, past_key_values=output.past_key_values, use_cache=True)
        found.append(output.logits[0])
    return torch.cat(found)


def compare_kernels(network: Any) -> dict[str, Any]:
    """Attention as the device runs it against its reference in float64: largest difference over largest number."""
    text, device = network.config.text_config, network.device
    heads, key_heads = text.num_attention_heads, text.num_key_value_heads
    size = text.hidden_size // heads
    drawn = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=drawn)

    lengths = [2900, 1, 64, 65, 513, 1024, 700]
    most = count_pages(max(lengths))
    pages = (torch.randperm(len(lengths) * most, generator=drawn) + 1).view(len(lengths), most).int()
    tokens = (len(lengths) * most + 1) * PAGE
    paged = [draw(len(lengths), heads, size), draw(tokens, key_heads, size), draw(tokens, key_heads, size)]
    packed = [draw(sum(lengths), each, size) for each in (heads, key_heads, key_heads)]
    table = (pages.to(device), torch.tensor(lengths, dtype=torch.int32, device=device))
    bounds = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        queries, keys, values = (each.to(device, dtype) for each in paged)
        expected = attend_gathered(queries.double(), keys.double(), values.double(), *table)
        found[f"paged, {name}"] = measure_error(attend_paged(queries, keys, values, *table), expected)
        queries, keys, values = (each.to(device, dtype) for each in packed)
        expected = attend_each(queries.double(), keys.double(), values.double(), lengths)
        found[f"packed, {name}"] = measure_error(attend_packed(queries, keys, values, lengths, bounds), expected)
        last, ends = queries[-1000:], (bounds.new_tensor([0, 1000]), bounds.new_tensor([0, len(keys)]))
        expected = attend_masked(last.double(), keys.double(), values.double())
        found[f"chunk, {name}"] = measure_error(attend_last(last, keys, values, ends), expected)
    return found


def measure_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def profile(engine: Engine, prompts: Sequence[Prompt], folder: Path, name: str) -> None:
    """Write tables of where the device's time goes: reading a row of prompts, and 16 steps."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    requests = [Request(index=index, prompt_tokens=len(prompt.ids)) for index, prompt in enumerate(prompts)]
    folder.mkdir(parents=True, exist_ok=True)
    recorded: list[str] = []

    class Recorder(Timed):
        def read(self, *arguments: Any) -> None:
            self._record("read", super().read, *arguments)

        def advance(self, steps: int) -> None:
            self._record("step", super().advance, steps)

        def _record(self, kind: str, function: Any, *arguments: Any) -> None:
            if kind in recorded:
                function(*arguments)
                return
            recorded.append(kind)
            with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                function(*arguments)
            table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=30, max_name_column_width=70)
            (folder / f"{name.replace(' ', '-')}-{kind}.txt").write_text(table, encoding="utf-8")

    with torch.inference_mode():
        few = requests[:32]
        machine = Recorder(engine, "cuda" if torch.cuda.is_available() else "cpu")
        dict(generate_texts(machine, [few], prompts.__getitem__, most_new_tokens=17, loaders=4))


def count_flops(network: Any, prompts: Sequence[Prompt], lengths: Sequence[int]) -> float:
    """What the model needs, not what was done: two a weight and token, attention to what is before, the head once."""
    text, vision = network.config.text_config, network.config.vision_config
    dense = sum(weight.numel() for weight in network.model.language_model.layers.parameters())
    head = text.vocab_size * text.hidden_size
    tower = sum(weight.numel() for weight in network.model.vision_tower.encoder.parameters())
    patches = (vision.image_size[0] // 14) ** 2 + 1
    tile = 2.0 * tower * patches + 4.0 * patches**2 * vision.hidden_size * vision.num_hidden_layers
    total = 0.0
    for prompt, new in zip(prompts, lengths, strict=True):
        whole = len(prompt.ids) + new
        total += 2.0 * dense * whole + 2.0 * head * new
        total += 2.0 * whole**2 * text.hidden_size * text.num_hidden_layers
        total += tile * len(prompt.pixels)
    return total


def choose_spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The middles of so many equal parts of the prompts, which are in order of length."""
    return [prompts[(2 * part + 1) * len(prompts) // (2 * count)] for part in range(count)]


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def release() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None


if __name__ == "__main__":
    main()
