"""How a process ended: one value, written where others can read it, because torchrun turns every failure into 1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tandem.errors import BadConfiguration, BadData, Stopped, TandemError, Unavailable, one_line


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one process: exit code, machine-readable code, one line for people, and the remedy."""

    exit_code: int
    code: str
    message: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))
        object.__setattr__(self, "remedy", one_line(self.remedy))

    def to_json(self) -> str:
        """One JSON line, as a pod's termination message carries it."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


_READER = TypeAdapter(Outcome)

DONE = Outcome(exit_code=0, code="done")
OUT_OF_MEMORY = "out-of-memory"
LINE_MARK = "tandem-outcome "
"""Begins the last line that a stage's process prints; the outcome's JSON follows."""

_STRENGTH = ("permanent", OUT_OF_MEMORY, "temporary", "stopped", "other", "peer", "done")


def describe_failure(error: BaseException) -> Outcome:
    """The outcome of an exception. Unexpected ones get exit code 1 and are retried."""
    if isinstance(error, TandemError):
        return Outcome(
            exit_code=error.exit_code,
            code=error.code,
            message="; ".join(f"{fault.where}: {fault.what}" for fault in error.faults),
            remedy="; ".join(dict.fromkeys(fault.remedy for fault in error.faults)),
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Outcome(
            exit_code=1,
            code=OUT_OF_MEMORY,
            message=f"out of memory: {_first_line(error)}",
            remedy="Lower the tokens of a micro-batch (batch.packedTokens, batch.perDevice, batchTokens) or the tiles.",
        )
    if _is_peer_failure(error):
        return Outcome(
            exit_code=1,
            code="peer-lost",
            message=f"another rank went away: {_first_line(error)}",
            remedy="See the other ranks' outcomes: this one explains nothing.",
        )
    return Outcome(
        exit_code=1,
        code="unexpected",
        message=f"{type(error).__name__}: {_first_line(error)}",
        remedy="This is a fault of tandem or of the machine; the log holds the traceback.",
    )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write the outcome so that nobody reads half of it."""
    half = path.with_suffix(".part")
    half.write_text(outcome.to_json() + "\n", encoding="utf-8")
    half.replace(path)


def read_outcome(path: Path) -> Outcome | None:
    """The outcome that a process left, or None if it left none that can be read."""
    try:
        return parse_outcome(path.read_bytes())
    except OSError:
        return None


def parse_outcome(body: bytes | str) -> Outcome | None:
    """The outcome that is written as this JSON, or None if it is none."""
    try:
        return _READER.validate_json(body, strict=True)
    except (ValidationError, UnicodeEncodeError):
        return None


def parse_outcome_line(line: str) -> Outcome | None:
    """The outcome in a line that a stage's process printed, or None for every other line."""
    return parse_outcome(line.removeprefix(LINE_MARK)) if line.startswith(LINE_MARK) else None


def choose_strongest(outcomes: Iterable[Outcome]) -> Outcome:
    """The one that explains an attempt: permanent, out of memory, temporary, stopped, other; a lost peer last."""
    return min(outcomes, key=lambda outcome: _STRENGTH.index(classify(outcome)))


def classify(outcome: Outcome) -> str:
    """permanent, out-of-memory, temporary, stopped, other, peer or done."""
    if outcome.exit_code == 0:
        return "done"
    if outcome.code == OUT_OF_MEMORY:
        return OUT_OF_MEMORY
    if outcome.code == "peer-lost":
        return "peer"
    if outcome.exit_code in (BadData.exit_code, BadConfiguration.exit_code):
        return "permanent"
    return {Unavailable.exit_code: "temporary", Stopped.exit_code: "stopped"}.get(outcome.exit_code, "other")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _is_peer_failure(error: BaseException) -> bool:
    """The process group reports a lost peer only as a RuntimeError (DistBackendError, or gloo's own text)."""
    text = str(error)
    return type(error).__name__.startswith("Dist") or "Connection closed by peer" in text or "gloo" in text.lower()
