"""Checkpoints in the remote-code format: small ones made by the original code, and larger ones of the same names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden" / "remote_code"
FAMILIES = ("qwen2", "internlm2")


def change_json(path: Path, **changes: Any) -> None:
    """Replace values at the top level, or one level down: {"llm_config.bias": True}; None takes a key away."""
    value = json.loads(path.read_text())
    for place, new in changes.items():
        *above, name = place.split(".")
        section = value
        for part in above:
            section = section[part]
        if new is None:
            section.pop(name, None)
        else:
            section[name] = new
    path.write_text(json.dumps(value))
