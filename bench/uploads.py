"""What training loses while its checkpoints go to the store: `python -m bench.uploads [--store URL]`; prints JSON.

The store is versitygw on the loopback unless another one is named. A tiny model with a large adapter trains the same
steps in three ways, one after the other, several times: checkpoints stay on this disk; they go to the store beside the
training, as shipped; training waits for each of them. Every file takes the store --slow seconds longer, so that
something is on its way about half of the time. Where a machine is not quiet, whole trainings differ by more than what
is looked for: `steps_lose` is what, between two checkpoints each, the steps beside a transfer take longer than those
beside none, as a share of all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from tandem.model.card import CardBase
from tandem.model.libraries import load_libraries
from tandem.model.tiny import make_tiny_model
from tandem.spec import TrainSpec
from tandem.store import FileDigest, Store, open_store
from tandem.train.job import RankJob
from tandem.train.keeping import Keeper
from tandem.train.ranks import Ranks, connect
from tests.servers import versitygw_running

WAYS = ("none", "background", "waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="address of another store")
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--every", type=int, default=60, help="steps between two checkpoints")
    parser.add_argument("--rank", type=int, default=256, help="rank of the adapter: sets the checkpoints' size")
    parser.add_argument("--slow", type=float, default=0.8, help="seconds that each file takes the store longer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="none is always there")
    options = parser.parse_args()
    load_libraries()
    connect(Ranks(), expected=1)
    with tempfile.TemporaryDirectory() as name, store_running(options.store, Path(name) / "server") as store_url:
        print(json.dumps(summarise(measure(Path(name), options, store_url), options), indent=2))


@contextmanager
def store_running(url: str | None, folder: Path) -> Iterator[str]:
    """The address of the store that is named, or of a bucket of a server that runs meanwhile."""
    if url is not None:
        yield url
        return
    folder.mkdir()
    with versitygw_running(folder) as server, patch.dict(os.environ, server.environment()):
        server.client().create_bucket(Bucket="bench")
        yield "s3://bench/store"


def measure(folder: Path, options: argparse.Namespace, store_url: str) -> dict[str, list[Measured]]:
    """Every way in every round."""
    make_tiny_model(folder / "model", seed=0)
    write_data(folder)
    train_one(describe_job(folder, options, None), "none", 0.0)  # imports and caches
    measured: dict[str, list[Measured]] = {way: [] for way in WAYS if way in (*options.ways, "none")}
    for number in range(options.rounds):
        for way in measured if number % 2 else reversed(measured):  # what gets slower or faster meanwhile evens out
            job = describe_job(folder, options, None if way == "none" else store_url)
            measured[way].append(train_one(job, way, options.slow))
    return measured


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One training."""

    seconds: float
    """From the first step to the last one, local saving included."""
    waiting_seconds: float
    """After the last step, until everything was in the store."""
    checkpoint_bytes: int
    steps: tuple[tuple[float, float], ...]
    """When each step began and ended."""
    uploads: tuple[tuple[float, float], ...]
    """When each file was read, digested and sent."""


def summarise(measured: dict[str, list[Measured]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians, and what each way loses against none in the median of its rounds."""
    none = [one.seconds for one in measured["none"]]
    size = measured["none"][0].checkpoint_bytes
    checkpoints = options.steps // options.every
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": version("torch")},
        "steps": options.steps,
        "checkpoint_bytes": size,
        "bytes_per_second": round(size * checkpoints / statistics.median(none)),
        "ways": {way: describe_way(runs, none, options.every) for way, runs in measured.items()},
    }


def describe_way(runs: Sequence[Measured], none: Sequence[float], every: int) -> dict[str, Any]:
    """Medians of a way, and what each of its rounds loses against the one without uploads."""
    loses = [one.seconds / base - 1 for one, base in zip(runs, none, strict=True)]
    return {
        "seconds": round(statistics.median(one.seconds for one in runs), 3),
        "loses": round(statistics.median(loses), 4),
        "loses_in_each_round": [round(one, 3) for one in loses],
        "steps_lose": compare_steps(runs, every),
        "waiting_after_the_last_step": round(statistics.median(one.waiting_seconds for one in runs), 3),
    }


def compare_steps(runs: Sequence[Measured], every: int) -> dict[str, Any] | None:
    """What steps beside a transfer take longer, of all time until the next checkpoint; None without transfers."""
    ratios = []
    for run in runs:
        for first in range(every, len(run.steps), every):
            within = run.steps[first : first + every]
            alone = [end - begin for begin, end in within if all(end <= a or b <= begin for a, b in run.uploads)]
            if 5 <= len(alone) < len(within):
                took = within[-1][1] - within[0][0]
                ratios.append(1 - statistics.mean(alone) * len(within) / took)
    if not ratios:
        return None
    draws = random.Random(0)  # noqa: S311
    medians = sorted(statistics.median(draws.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {
        "median": round(statistics.median(ratios), 4),
        "low": round(medians[50], 4),
        "high": round(medians[-51], 4),
        "intervals": len(ratios),
    }


def describe_job(folder: Path, options: argparse.Namespace, store_url: str | None) -> RankJob:
    """A training of its own name, so that it goes on from no other."""
    name = uuid.uuid4().hex[:12]
    return RankJob(
        train=TrainSpec.model_validate(
            {
                "meta": "meta.json",
                "lora": {"r": options.rank, "alpha": options.rank, "dropout": 0.0},
                "tiles": {"max": 1},
                "maxLength": 160,
                "batch": {"globalSize": 8, "packedTokens": 1280},
                "steps": options.steps,
                "precision": "float32",
                "zero": {"stage": 0},
                "workers": 0,
                "logEverySteps": 1000,
                "checkpoints": {"everySteps": options.every},
            }
        ),
        seed=1,
        model_folder=folder / "model",
        meta=folder / "meta.json",
        work=folder / name,
        store_url=store_url,
        execution=f"bench/{name}/executions/one",
        checkpoints_from=f"bench/{name}/executions/",
        outcomes=folder / name / "outcomes",
        base=CardBase(source="tiny", digest="sha256:" + "0" * 64),
    )


def train_one(job: RankJob, way: str, slow: float) -> Measured:
    from tandem.train.recipe import run_training

    waited: list[float] = []
    uploads: list[tuple[float, float]] = []
    ends: list[float] = []
    with slow_store(slow, uploads), kept(way, waited), steps_timed(ends):
        run_training(job, Ranks())
    record = json.loads((job.output / "train.json").read_text())
    checkpoint = job.output / "checkpoints" / record["checkpoints"]["last"]
    return Measured(
        seconds=record["timings"]["train_seconds"],
        waiting_seconds=waited[-1],
        checkpoint_bytes=sum(path.stat().st_size for path in checkpoint.rglob("*")),
        steps=tuple(pairwise(ends)),
        uploads=tuple(uploads),
    )


def steps_timed(ends: list[float]) -> AbstractContextManager[Any]:
    """Note when each step of the optimizer ends."""
    step = torch.optim.AdamW.step

    def step_and_note(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        done = step(self, *arguments, **options)
        ends.append(time.perf_counter())
        return done

    return patch.object(torch.optim.AdamW, "step", step_and_note)


def slow_store(seconds: float, uploads: list[tuple[float, float]]) -> AbstractContextManager[Any]:
    """Every file takes the store so much longer, in which nobody computes; note when each was sent."""

    def open_slowly(url: str, **options: Any) -> Store:
        store: Any = open_store(url, **options)
        put: Callable[[str, Path], FileDigest] = store.put_file_if_absent

        def put_slowly(key: str, path: Path) -> FileDigest:
            time.sleep(seconds)
            began = time.perf_counter()
            done = put(key, path)
            uploads.append((began, time.perf_counter()))
            return done

        store.put_file_if_absent = put_slowly
        opened: Store = store
        return opened

    return patch("tandem.train.recipe.open_store", open_slowly)


@contextmanager
def kept(way: str, waited: list[float]) -> Iterator[None]:
    """Note how long the end waits; in the way `waiting`, every checkpoint is waited for like the last one."""
    keep, finish = Keeper.keep, Keeper.finish

    def keep_and_wait(self: Keeper, *arguments: Any) -> None:
        keep(self, *arguments)
        finish(self, patient=True)

    def finish_timed(self: Keeper, *, patient: bool) -> None:
        began = time.perf_counter()
        finish(self, patient=patient)
        waited.append(time.perf_counter() - began)

    with ExitStack() as patches:
        patches.enter_context(patch.object(Keeper, "finish", finish_timed))
        if way == "waiting":
            patches.enter_context(patch.object(Keeper, "keep", keep_and_wait))
        yield


def write_data(folder: Path) -> None:
    """32 images of one colour with a question each."""
    (folder / "images").mkdir()
    lines = []
    for number in range(32):
        Image.new("RGB", (56, 56), (8 * number, 100, 200)).save(folder / "images" / f"{number}.png")
        turns = [
            {"from": "system", "value": "Colours."},
            {"from": "human", "value": "<image>\nHow red is it?"},
            {"from": "gpt", "value": f"I look. ### The final answer is: {number}"},
        ]
        lines.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"root": "images", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
    (folder / "meta.json").write_text(json.dumps({"bench": entry}))


if __name__ == "__main__":
    main()
