"""What torch.compile has cost this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Time spent and programs made."""

    seconds: float = 0.0
    """In compiling, kernels included; with a cache of compiled kernels it is less."""
    graphs: int = 0
    recompilations: int = 0
    """How often code that was compiled already was compiled again, for other shapes or values."""

    def since(self, earlier: Compilation) -> Compilation:
        """What came after an earlier reading; torch.compiler.reset must not lie between them."""
        return Compilation(
            seconds=self.seconds - earlier.seconds,
            graphs=self.graphs - earlier.graphs,
            recompilations=self.recompilations - earlier.recompilations,
        )


def read_compilation() -> Compilation:
    """All since this process began; recompilations only since torch.compiler.reset. Nothing is imported for it."""
    if "torch._dynamo.convert_frame" not in sys.modules:
        return Compilation()
    from torch._dynamo import convert_frame, utils

    return Compilation(
        seconds=utils.calculate_time_spent()["total_wall_time"],
        graphs=utils.counters["stats"]["unique_graphs"],
        recompilations=sum(times - 1 for times in convert_frame.FRAME_COMPILE_COUNTER.values()),
    )
