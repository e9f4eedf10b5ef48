"""What a training says while it runs: metrics.jsonl, TensorBoard files, a bar or plain lines."""

from __future__ import annotations

import json
import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger("tandem.train")

METRICS = "metrics.jsonl"


@dataclass(kw_only=True)
class Throughput:
    """Samples and tokens since the last look."""

    clock: Callable[[], float]
    """Seconds, from any start."""
    samples: int = 0
    tokens: int = 0
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.clock()

    def add(self, *, samples: int, tokens: int) -> None:
        """Count what one step has used."""
        self.samples += samples
        self.tokens += tokens

    def take(self) -> dict[str, float]:
        """Rates since the last look, per second."""
        now = self.clock()
        elapsed = max(now - self.since, 1e-9)
        rates = {"samples_per_second": self.samples / elapsed, "tokens_per_second": self.tokens / elapsed}
        self.samples, self.tokens, self.since = 0, 0, now
        return rates


class MetricsFile:
    """One JSON line for each measurement; each line is on disk before the training goes on."""

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._board: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line, and one point for each value."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def close(self) -> None:
        """Finish the TensorBoard files."""
        if self._board is not None:
            self._board.close()


class Display:
    """Progress for people: a bar on a terminal, one line for each measurement elsewhere."""

    def __init__(self, steps: int, *, first: int = 0, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self.steps = steps
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=steps, initial=first, file=stream, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update(1)

    def show(self, step: int, values: dict[str, float]) -> None:
        """Show a measurement."""
        text = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            logger.info("step %d/%d  %s", step, self.steps, text)

    def close(self) -> None:
        """Leave the terminal in good order."""
        if self._bar is not None:
            self._bar.close()


def measure_memory() -> int:
    """Highest use so far in bytes: of this rank's GPU, or without one of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
