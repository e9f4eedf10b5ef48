"""Time the check of 10,000 samples with 10,000 images: `python -m bench.preflight [--samples N]`; prints JSON."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tandem.check import check_run
from tandem.inputs import Resolver
from tandem.spec import load_run

VOCABULARY = [
    "the",
    "image",
    "shows",
    "a",
    "small",
    "dense",
    "lesion",
    "in",
    "left",
    "lower",
    "lobe",
    "with",
    "no",
    "effusion",
    "and",
    "normal",
    "heart",
    "size",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=224, help="pixels of an image's side")
    parser.add_argument("--words", type=int, default=300, help="words of an answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        submission = load_run(make_run(Path(folder), options.samples, options.side, options.words))
        started, cpu_started = time.perf_counter(), time.process_time()
        report = check_run(
            submission,
            sources=Resolver(folder=Path(folder), cache=Path(folder) / "cache"),
            store_url=str(Path(folder) / "store"),
            environment={},
            gpu_memory=None,
            gpus=0,
            cpu_count=os.cpu_count() or 1,
        )
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    assert not report.findings, report.findings[:3]
    facts = report.facts
    print(
        json.dumps(
            {
                "samples": facts["train"]["samples"],
                "images": facts["images"]["files"],
                "tokens": facts["train"]["tokens"]["total"],
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "cpus": os.cpu_count(),
                "torch_imported_by_check": "torch" in sys.modules,
            }
        )
    )


def make_run(folder: Path, samples: int, side: int, words: int) -> Path:
    """Write a model (in another process: it needs torch), a training set and a Run file."""
    import subprocess

    code = f"from tandem.model.tiny import make_tiny_model; make_tiny_model({str(folder / 'model')!r}, seed=0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    draw = random.Random(0)  # noqa: S311
    (folder / "images").mkdir()
    lines = [_write_sample(folder / "images", number, side, words, draw) for number in range(samples)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    entry = {"root": "images", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
    (folder / "meta.json").write_text(json.dumps({"bench": entry}))
    run: dict[str, Any] = {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"name": "bench"},
        "spec": {
            "model": {"source": "model"},
            "train": {"meta": "meta.json", "batch": {"globalSize": 16}, "epochs": 1},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def _write_sample(images: Path, number: int, side: int, words: int, draw: random.Random) -> str:
    """One JPEG of soft coloured noise, which no other equals, and its line."""
    noise = Image.frombytes("RGB", (8, 8), draw.randbytes(8 * 8 * 3))
    noise.resize((side, side), Image.Resampling.BICUBIC).save(images / f"{number}.jpeg", quality=85)
    text = " ".join(draw.choice(VOCABULARY) for _ in range(words))
    return json.dumps(
        {
            "id": number,
            "image": f"{number}.jpeg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat does it show?"},
                {"from": "gpt", "value": f"{text}\n### The final answer is: {draw.choice(VOCABULARY)}"},
            ],
        }
    )


if __name__ == "__main__":
    main()
