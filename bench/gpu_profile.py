"""What a GPU did in one step of a training: its kernels, longest first, and when it had none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


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


class Profile:
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
