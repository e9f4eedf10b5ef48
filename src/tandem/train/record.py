"""What train.json says about a finished training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tandem.model.compilation import Compilation
from tandem.spec import TrainSpec
from tandem.train.checkpoints import Measurement, checkpoint_name
from tandem.train.corpus import Corpus
from tandem.train.fitting import Memory

SCHEMA = "tandem.dev/train/v1"


def describe_result(
    *,
    steps: int,
    train: TrainSpec,
    corpus: Corpus,
    measurements: Sequence[Measurement],
    trainable: int,
    resumed_from: str | None,
    timings: Mapping[str, float],
    memory: Memory,
    ways: Mapping[str, bool],
    notes: Sequence[str],
    compilation: Compilation,
) -> dict[str, Any]:
    """Counts, samples left out, checkpoints, timings (seconds), what fitted into memory, and how it was made fast.

    Ready for JSON. ways is which were chosen, notes why some of them could not be taken.
    The best checkpoint is the one with the lowest validation loss of those that were measured, the earliest of
    equals; null without a validation set.
    """
    saved = [step for step in range(1, steps + 1) if step % train.checkpoints.every_steps == 0 or step == steps]
    candidates = [measured for measured in measurements if measured.step in saved]
    best = min(candidates, key=lambda measured: (measured.loss, measured.step), default=None)
    return {
        "schema": SCHEMA,
        "steps": steps,
        "epochs": steps * train.batch.global_size / len(corpus.samples),
        "samples": {
            "used": len(corpus.samples),
            "tokens": sum(length.tokens for length in corpus.lengths),
            "labelled_tokens": sum(length.labelled for length in corpus.lengths),
            "too_long": [fault.where for fault in corpus.too_long],
            "bad": [[str(fault) for fault in faults] for faults in corpus.bad],
        },
        "ranks": train.ranks,
        "trainable_parameters": trainable,
        "checkpoints": {
            "steps": saved,
            "last": checkpoint_name(steps),
            "best": None if best is None else {"name": checkpoint_name(best.step), **best.model_dump()},
        },
        "validation": [measured.model_dump() for measured in measurements],
        "resumed_from": resumed_from,
        "timings": dict(timings),
        "memory": memory.model_dump(),
        "ways": {"chosen": dict(ways), "not_taken": list(notes)},
        "compile": asdict(compilation),
    }
