"""Checkpoints as Trainer and DeepSpeed would leave them, without either; and ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.store import Store
from tandem.train.checkpoints import Measurement, Progress, checkpoint_name, finish_checkpoint
from tandem.train.ranks import Ranks
from tandem.train.uploads import commit_parts, send_part

EXECUTIONS = "runs/local/r/train/executions/"


def describe_progress(step: int, *, ranks: int = 1, zero: int = 0) -> Progress:
    return Progress(
        step=step, steps=10, ranks=ranks, zero_stage=zero, data="d", validation=(Measurement(step=step, loss=1.5),)
    )


def list_files(step: int, *, ranks: int, zero: int) -> list[str]:
    """What a real checkpoint holds; test_recipe.py compares."""
    states = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
    shards = [f"global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)]
    optimizer = ["latest", f"global_step{step}/mp_rank_00_model_states.pt", *shards] if zero else ["optimizer.pt"]
    return ["adapter_model.safetensors", "trainer_state.json", "scheduler.pt", "metrics.jsonl", *states, *optimizer]


def write_checkpoint(folder: Path, step: int, *, ranks: int = 1, zero: int = 0, text: str = "") -> Path:
    """A whole checkpoint in folder/step-...; every file holds its name and `text`."""
    written = folder / f"checkpoint-{step}"
    for name in list_files(step, ranks=ranks, zero=zero):
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_text(f"{name} {text}")
    target = folder / checkpoint_name(step)
    finish_checkpoint(written, target, progress=describe_progress(step, ranks=ranks, zero=zero), metrics=None)
    return target


def save(folder: Path, store: Store, step: int, *, execution: str = "a", ranks: int = 1, zero: int = 0) -> str:
    """Write a checkpoint below folder and bring it into the store; its key prefix."""
    target = write_checkpoint(folder / execution, step, ranks=ranks, zero=zero, text=execution)
    prefix = f"{EXECUTIONS}{execution}/checkpoints/{checkpoint_name(step)}"
    send_part(store, target, prefix, leader=0, sent={})
    assert commit_parts(store, prefix, (0,))
    return prefix


class Nodes:
    """Ranks of several nodes, one on each, as threads that hear each other."""

    def __init__(self, world: int) -> None:
        self.values: list[Any] = [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def rank(self, number: int) -> Ranks:
        nodes = self

        class Node(Ranks):
            def gather(self, value: Any) -> list[Any]:
                nodes.values[self.rank] = value
                nodes.barrier.wait()
                heard = list(nodes.values)
                nodes.barrier.wait()
                return heard

        return Node(world=len(self.values), rank=number, local_rank=0, local_world=1)

    def together(self, do: Callable[[Ranks], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.values)) as pool:
            return list(pool.map(lambda number: do(self.rank(number)), range(len(self.values))))
