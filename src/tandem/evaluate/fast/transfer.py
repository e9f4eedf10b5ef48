"""Small arrays to the device without waiting for it: the host must be free to prepare what comes next."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def send(numbers: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """The numbers on the device, once it gets there; from pageable memory the host would wait."""
    made = torch.from_numpy(np.ascontiguousarray(numbers))
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made
