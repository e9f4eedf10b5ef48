"""A small training: data, settings, and ranks as forked processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tandem.outcome import Outcome, read_outcome
from tandem.train.job import RankJob, write_job

Settings = dict[str, Any]
MakeJob = Callable[..., RankJob]

SETTINGS: Settings = {
    "meta": "meta.json",
    "ranks": 1,
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    "tiles": {"max": 2},
    "maxLength": 160,
    "batch": {"globalSize": 5, "packedTokens": 320},
    "optimizer": {"learningRate": 4e-3},
    "steps": 4,
    "precision": "float32",
    "zero": {"stage": 0},
    "workers": 0,
    "logEverySteps": 1,
    "checkpoints": {"everySteps": 2},
}


def write_data(folder: Path, *, samples: int, seed: int = 0) -> None:
    """Images of one colour, questions of various lengths with one, two and no images; meta.json and val.json."""
    from PIL import Image

    rng = random.Random(seed)  # noqa: S311
    (folder / "images").mkdir(parents=True, exist_ok=True)
    colours = ["red", "green", "blue"]
    lines = []
    for number in range(samples):
        names = [f"{number}-{index}.png" for index in range(number % 3)]
        answers = []
        for index, name in enumerate(names):
            colour = rng.choice(colours)
            size = (56 + 60 * ((number + index) % 2), 56)
            Image.new("RGB", size, colour).save(folder / "images" / name)
            answers.append(colour)
        question = "<image>\n" * len(names) + "Which colour? " * rng.randint(1, 3)
        answer = f"I look. ### The final answer is: {' and '.join(answers) or 'none'}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        short = [{"from": "system", "value": "Colours."}]  # instead of the long default
        lines.append({"id": f"s{number}", "image": names, "conversations": short + turns})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:5]))
    for name in ("train", "val"):
        entry = {"root": "images", "annotation": f"{name}.jsonl", "data_augment": False, "repeat_time": 1}
        (folder / ("meta.json" if name == "train" else "val.json")).write_text(json.dumps({"colours": entry}))


def merge(settings: Settings, changes: Settings) -> Settings:
    merged = dict(settings)
    for key, value in changes.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and key in merged else value
        if value is None:
            del merged[key]
    return merged


def start_ranks(job: RankJob, prepare: Callable[[], None] | None = None) -> list[BaseProcess]:
    """Start the processes that torchrun would start; each calls prepare first."""
    job.work.mkdir(parents=True, exist_ok=True)
    write_job(job.work / "job.json", job)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes: list[BaseProcess] = []
    for rank in range(job.train.ranks):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(job.train.ranks),
            "LOCAL_WORLD_SIZE": str(job.train.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = clean_processes().Process(target=_be_rank, args=(job.work / "job.json", environment, prepare))
        process.start()
        processes.append(process)
    return processes


def _be_rank(job_file: Path, environment: dict[str, str], prepare: Callable[[], None] | None) -> None:
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    log = (job_file.parent / f"rank-{environment['RANK']}.log").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stderr = sys.__stderr__ or sys.stderr
    from tandem.train.rank import main

    sys.stderr = log
    code = main([str(job_file)])
    log.flush()
    os._exit(code)


def train(job: RankJob) -> list[Outcome | None]:
    """Run all ranks to their end; their outcomes by rank."""
    for process in start_ranks(job):
        process.join()
    return outcomes_of(job)


def outcomes_of(job: RankJob) -> list[Outcome | None]:
    return [read_outcome(job.outcomes / f"rank-{rank:05d}.json") for rank in range(job.train.ranks)]


def logs_of(job: RankJob) -> str:
    return "\n".join(path.read_text() for path in sorted(job.work.glob("rank-*.log")))


def succeed(job: RankJob) -> RankJob:
    """Train, and fail with the log unless every rank ended well."""
    outcomes = train(job)
    assert all(outcome is not None and outcome.exit_code == 0 for outcome in outcomes), logs_of(job)
    return job


def adapter_bytes(job: RankJob) -> bytes:
    return (job.output / "adapter" / "adapter_model.safetensors").read_bytes()


def metrics_of(job: RankJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def in_child(body: Callable[[RankJob], None], job: RankJob) -> None:
    """Run in a process of its own, for Trainer leaves its state behind; fails with the child's traceback."""
    receiving, sending = clean_processes().Pipe(duplex=False)
    child = clean_processes().Process(target=_report, args=(body, job, sending))
    child.start()
    child.join()
    assert receiving.poll(), f"the child ended with {child.exitcode}"
    failure = receiving.recv()
    assert not failure, failure


def _report(body: Callable[[RankJob], None], job: RankJob, sending: Connection) -> None:
    try:
        body(job)
    except BaseException:  # noqa: BLE001
        sending.send(traceback.format_exc())
    else:
        sending.send("")


def clean_processes() -> ForkServerContext:
    """Processes forked from one that has imported everything and done nothing: a test's own threads stay out."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.imported"])
    return context


def wait_for(condition: Callable[[], bool], processes: list[BaseProcess]) -> None:
    """Look again and again until the condition holds; fails if the processes end first."""
    while not condition():
        assert any(process.is_alive() for process in processes), "the processes ended first"
        time.sleep(0.01)
