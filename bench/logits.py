"""Time the loss at the labels against all logits: `python -m bench.logits`; prints JSON.

One training sample of the field's mean length at the vocabulary of InternVL3, forward and backward through a small
language model with LoRA, float32 on one thread of the CPU: by transformers' own loss, which makes the logits of every
position, and by ours, which makes them where there is a label. Each way has a process of its own, so that its peak of
memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench.gpu_samples import GEOMETRIES, build_base

from tandem.model.internvl import IGNORED, make_trainable
from tandem.model.speed import Speed, make_fast
from tandem.spec.train import LoraSpec
from tandem.train.adapter import attach_adapter, trainable_weights

WAYS = ("full", "labels", "fused")
"""transformers' loss; ours, plain; ours with the gradient in one go (train.speed.fusedLoss)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1640, help="of the sample")
    parser.add_argument("--labelled", type=int, default=440, help="of those, the answer's")
    parser.add_argument("--vocabulary", type=int, default=151_674)
    parser.add_argument("--repeat", type=int, default=3, help="the fastest counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (options.tokens, options.labelled, options.vocabulary, options.repeat)
    measured = {way: in_own_process(way, *sizes) for way in WAYS}
    full = measured["full"]
    for way in ("labels", "fused"):
        measured[way] |= {
            "times_faster": round(full["seconds"] / measured[way]["seconds"], 2),
            "times_less_memory": round(full["peak_mb"] / measured[way]["peak_mb"], 2),
            "largest_difference_of_gradients": abs(full["gradient"] - measured[way]["gradient"]),
        }
    print(json.dumps({"tokens": options.tokens, "labelled": options.labelled, "ways": measured}))


def in_own_process(way: str, *sizes: int) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(measure, way, *sizes).result()


def measure(way: str, tokens: int, labelled: int, vocabulary: int, repeat: int) -> dict[str, Any]:
    """Seconds of one forward and backward pass, and how far memory rose above what model and sample take."""
    geometry = replace(GEOMETRIES["small"], layers=2, hidden=256, inner=704, vocabulary=vocabulary)
    model: Any = build_base(geometry, dtype=torch.float32, device="cpu")
    if way != "full":
        make_trainable(model)
    attach_adapter(model, LoraSpec(dropout=0.0), seed=0, base="random").train()
    if way == "fused":
        assert not make_fast(model, Speed(fused_loss=True))
    with torch.no_grad():  # an adapter that changes nothing yet has no gradient in half of its weights
        draw = torch.Generator().manual_seed(0)
        for weight in trainable_weights(model):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.02)
    ids = torch.randint(10, vocabulary, (1, tokens), generator=draw)
    labels = torch.where(torch.arange(tokens)[None] < tokens - labelled, IGNORED, ids)

    def step() -> float:
        started = time.perf_counter()
        given = {} if way == "full" else {"attention_mask": torch.ones_like(ids)}
        loss = model(input_ids=ids, labels=labels, **given).loss
        loss.backward()
        return time.perf_counter() - started

    before = reset_peak()
    step()
    seconds = []
    for _ in range(repeat):
        model.zero_grad()
        seconds.append(step())
    return {
        "seconds": round(min(seconds), 3),
        "peak_mb": round((read_peak() - before) / 1e6, 1),
        "gradient": sum(float(weight.grad.double().norm()) for weight in trainable_weights(model)),
    }


def reset_peak() -> int:
    """Let the kernel count this process's peak of memory anew from here; bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return read_peak()


def read_peak() -> int:
    """The most memory (bytes) that this process has held since."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
