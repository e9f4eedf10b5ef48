"""How each rank of this node ended, told to the process that started torchrun."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from tandem.outcome import Outcome, parse_outcome, read_outcome, write_outcome

_LINE = re.compile(r"tandem-rank-outcome ([0-9]{1,5}) (.*)")


def leave_outcome(folder: Path, local_rank: int, outcome: Outcome) -> None:
    """Write the outcome where `collect_outcomes` finds it; on stderr if the disk takes no more."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_outcome(_file(folder, local_rank), outcome)
    except OSError:
        sys.stderr.write(f"tandem-rank-outcome {local_rank} {json.dumps(asdict(outcome))}\n")
        sys.stderr.flush()


def parse_spoken(line: str) -> tuple[int, Outcome] | None:
    """The local rank and the outcome of a line that `leave_outcome` wrote; None for every other line."""
    match = _LINE.match(line)
    if match is None:
        return None
    outcome = parse_outcome(match[2])
    return None if outcome is None else (int(match[1]), outcome)


def collect_outcomes(
    folder: Path, local_ranks: Iterable[int], spoken: Mapping[int, Outcome]
) -> list[tuple[int, Outcome | None]]:
    """Each local rank's outcome; None where it left none."""
    return [(rank, read_outcome(_file(folder, rank)) or spoken.get(rank)) for rank in local_ranks]


def _file(folder: Path, local_rank: int) -> Path:
    return folder / f"rank-{local_rank:05d}.json"
