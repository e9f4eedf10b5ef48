"""What a GPU's memory has room for.

torch is imported inside the functions.
"""

from __future__ import annotations

import gc
from typing import Any

SPARED = 0.05
"""Part of the device's memory that is left alone, for its driver's and libraries' own needs."""


def release_memory() -> None:
    """Let go of what nobody holds any more; not inside an except block, which still holds what ran out."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure_room(device: Any) -> int:
    """Bytes that this process may hold on a GPU, what it holds already included: all but the spared part, what other
    processes hold, and what torch's limit for the process forbids.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return int(min(free + torch.cuda.memory_reserved(device), allowed) - SPARED * total)
