# ruff: noqa: PLR0917 - an operator takes as many tensors as it takes
"""Whether the fast ways to train give what the plain way gives: `python -m bench.gpu_equality`; prints JSON.

On a GPU: the operators of LoRA with dropout against float64 on the CPU; the loss of 50 steps at a reduced geometry in
float32, same order of samples, no dropout, one normaliser; and in bfloat16, beside two plain runs that differ only
in how samples are grouped. In float32 packed attention takes a mask: its kernel is compared in bfloat16 only.
Differences are those from the first way named: "transformers" is its own forward over padded samples, with all logits.
Exits with 1 if float32 losses differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench.gpu_machine import describe_machine
from bench.gpu_samples import GEOMETRIES, Geometry, Samples
from bench.gpu_train import EVERYTHING, Bench, Variant

from tandem.model.dropout_bits import draw_seeds
from tandem.model.lora_fused import lora_linear, lora_mlp, place_low_rank
from tandem.model.speed import Speed

ALLOWED = 1e-4
PLAIN = Variant(speed=Speed(), packed_tokens=2048, dropout=0.0)
WAYS = {
    "plain": PLAIN,
    "transformers": replace(PLAIN, packed_tokens=None, all_logits=True),
    "plain, other groups": replace(PLAIN, packed_tokens=1280),
    "packed attention": replace(PLAIN, speed=Speed(packed_attention=True)),
    "fused loss": replace(PLAIN, speed=Speed(fused_loss=True)),
    "fused LoRA": replace(PLAIN, speed=Speed(fused_lora=True)),
    "compiled": replace(PLAIN, speed=Speed(compiled=True)),
    "everything": replace(PLAIN, speed=EVERYTHING),
    "everything, checkpointed": replace(PLAIN, speed=EVERYTHING, checkpointed=True),
}


def compare_operators(device: str, dtype: torch.dtype) -> dict[str, float]:
    """L2 norm of the difference of results and gradients over that of the exact ones, by operator and tensor."""
    rows, wide, inner, rank, sizes = 300, 192, 320, 8, [192, 64, 64]
    torch.manual_seed(0)
    seeds = draw_seeds(1, 5, torch.device("cpu"))[0]

    def make(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(shape, dtype=torch.float64).to(dtype).double() / shape[-1] ** 0.5
        return drawn

    def linear(x: Any, w: Any, bias: Any, a: Any, b: Any, seeds: Any) -> torch.Tensor:
        return lora_linear(x, w, bias, a, b, seeds[:2], sizes, p=0.1, scale=2.0)

    def mlp(x: Any, gate_up: Any, down: Any, a: Any, b: Any, a_down: Any, b_down: Any, seeds: Any) -> torch.Tensor:
        gate_up = torch.cat([gate_up, gate_up.new_zeros((2 * inner, 2 * rank))], 1)
        place_low_rank(gate_up, b[:inner].detach(), b[inner:].detach(), 2.0)
        return lora_mlp(x, gate_up, down, a, b, a_down, b_down, seeds[3:], p=0.1, scale=2.0)

    ways: dict[str, tuple[Any, list[torch.Tensor], list[bool]]] = {
        "linear": (
            linear,
            [make(rows, wide), make(sum(sizes), wide), make(sum(sizes)), make(3 * rank, wide), make(sum(sizes), rank)],
            [True, False, False, True, True],
        ),
        "mlp": (
            mlp,
            [make(rows, wide), make(2 * inner, wide), make(wide, inner), make(2 * rank, wide),
             make(2 * inner, rank), make(rank, inner), make(wide, rank)],
            [True, False, False, True, True, True, True],
        ),
    }  # fmt: skip
    differences = {}
    for name, (way, tensors, learn) in ways.items():
        out = make(rows, sum(sizes) if name == "linear" else wide)
        results = []
        for where, number_format in (("cpu", torch.float64), (device, dtype)):
            given = [
                tensor.detach().to(where, number_format, copy=True).requires_grad_(learns)
                for tensor, learns in zip(tensors, learn, strict=True)
            ]
            y = way(*given, seeds.to(where))
            y.backward(out.to(where, number_format))
            results.append([y.detach(), *(tensor.grad for tensor, learns in zip(given, learn, strict=True) if learns)])
        for index, (exact, ours) in enumerate(zip(*results, strict=True)):
            off = (ours.double().cpu() - exact).norm() / exact.norm()
            differences[f"{name} {'result' if index == 0 else f'gradient {index}'}"] = float(off)
    return differences


def train_each_way(
    ways: Mapping[str, Variant], geometry: Geometry, *, steps: int, device: str, dtype: torch.dtype, rate: float = 1e-3
) -> dict[str, list[float]]:
    """The loss of every step, by way: from the same weights, on the same samples in the same order."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways.items():
            bench = Bench(
                geometry=geometry, samples=Samples(geometry, count=16), global_size=8, warm=1, steps=steps - 1,
                device=device, dtype=dtype, folder=Path(folder), learning_rate=rate,
            )  # fmt: skip
            losses[name] = bench.run(name, way)["losses"]
            print(name, losses[name][0], losses[name][-1], file=sys.stderr, flush=True)
    return losses


def find_largest_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """Of the same steps."""
    return max(abs(one - other) for one, other in zip(losses, others, strict=True))


def main(argv: list[str] | None = None) -> int:
    """Compare, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), default="small")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    result: dict[str, Any] = {"machine": describe_machine(), "operators": {}, "losses": {}}
    formats = {"float32": torch.float32, **({"bfloat16": torch.bfloat16} if cuda else {})}
    worst = 0.0
    for name, dtype in formats.items():
        result["operators"][name] = compare_operators(device, dtype)
        print(name, json.dumps(result["operators"][name]), file=sys.stderr, flush=True)
    ways = {way: WAYS[way] for way in given.ways.split(";")}
    for name, dtype in formats.items():
        losses = train_each_way(ways, GEOMETRIES[given.geometry], steps=given.steps, device=device, dtype=dtype)
        first = next(iter(losses.values()))
        off = {way: find_largest_difference(own, first) for way, own in losses.items()}
        result["losses"][name] = {
            way: {"first": own[0], "last": own[-1], "largest_difference": off[way]} for way, own in losses.items()
        }
        print(name, json.dumps(result["losses"][name]), file=sys.stderr, flush=True)
        if name == "float32":
            worst = max(off.values())
    result["equal"] = worst <= ALLOWED
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return int(not result["equal"])


if __name__ == "__main__":
    sys.exit(main())
