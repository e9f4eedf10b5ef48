"""What people see: lines as they come, progress in place on a terminal, JSON for machines on standard output."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

_PROGRESS = re.compile(r"\b(step|sample|batch|judged) (\d+)/(\d+)")
_BAR_WIDTH = 24


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_text(text: str) -> None:
    """Text on standard output."""
    sys.stdout.write(text.rstrip("\n") + "\n")


def tell(text: str) -> None:
    """A line about what is going on, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def tell_stage_line(stage: str, line: str) -> None:
    """A line of a running stage: a bar drawn in place for progress on a terminal, a plain line elsewhere."""
    found = _PROGRESS.search(line)
    if found and sys.stderr.isatty():
        done, total = int(found[2]), int(found[3])
        sys.stderr.write(f"\r\x1b[2K{stage} {draw_bar(done, total)} {line[:100]}" + ("\n" if done >= total else ""))
        sys.stderr.flush()
    else:
        tell(f"{stage} | {line}")


def draw_bar(done: int, total: int) -> str:
    """A bar of fixed width, full when done reaches total."""
    filled = _BAR_WIDTH * min(done, total) // max(total, 1)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]"
