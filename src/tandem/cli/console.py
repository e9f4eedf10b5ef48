"""What people see: lines as they come, progress in place on a terminal, JSON for machines on standard output."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TextIO

from tandem.progress import parse_progress

_BAR_WIDTH = 24
_UP = "\x1b[1A"
_ERASE = "\r\x1b[2K"


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    _SCREEN.erase()
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_answer(value: Any, output: Format, *, draw: Callable[[], str]) -> None:
    """An answer on standard output: a document for machines, or what `draw` makes of it for people."""
    if output is Format.TABLE:
        print_text(draw())
    else:
        print_document(value, output)


def print_document(value: Any, output: Format) -> None:
    """A document on standard output, as YAML unless JSON is asked for."""
    if output is Format.JSON:
        print_json(value)
        return
    from tandem.spec.dump import dump_yaml

    print_text(dump_yaml(value))


def print_text(text: str) -> None:
    """Text on standard output."""
    _SCREEN.erase()
    sys.stdout.write(text.rstrip("\n") + "\n")


def tell(text: str) -> None:
    """A line about what is going on, on standard error."""
    _SCREEN.tell(text)


def tell_stage_line(stage: str, line: str) -> None:
    """A line of a running stage: a bar drawn in place for progress on a terminal, a plain line elsewhere."""
    _SCREEN.tell_stage_line(stage, line)


def tell_progress(stage: str, line: str, done: int, total: int) -> None:
    """How far a stage is: a bar drawn in place on a terminal, a plain line elsewhere."""
    _SCREEN.tell_progress(stage, line, done, total)


class Screen:
    """Lines in their order and, on a terminal, below them one bar for each stage that runs; for several threads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._bars: dict[str, str] = {}
        self._drawn = 0

    def tell(self, text: str) -> None:
        """Write a line; bars come back with their stages' next progress."""
        with self._lock:
            self._bars.clear()
            self._show(f"{text}\n")

    def tell_stage_line(self, stage: str, line: str) -> None:
        """Write a stage's line, or draw its progress until there is no more of it."""
        found = parse_progress(line)
        if found is None:
            with self._lock:
                self._show(f"{stage} | {line}\n")
            return
        self.tell_progress(stage, line, found.done, found.total)

    def tell_progress(self, stage: str, line: str, done: int, total: int) -> None:
        """Draw a stage's progress, or write its line where nothing can be drawn."""
        with self._lock:
            if not self._out.isatty():
                self._show(f"{stage} | {line}\n")
                return
            bar = f"{stage} {draw_bar(done, total)} {line}"[: shutil.get_terminal_size().columns - 1]
            if done < total:
                self._bars[stage] = bar
                self._show("")
            else:
                self._bars.pop(stage, None)
                self._show(f"{bar}\n")

    def erase(self) -> None:
        """Take all bars away."""
        with self._lock:
            self._bars.clear()
            self._show("")

    @property
    def _out(self) -> TextIO:
        return sys.stderr if self._stream is None else self._stream

    def _show(self, text: str) -> None:
        """Write whole lines where the bars stood, and the bars below them; the cursor stays behind the last bar."""
        above = _ERASE + f"{_UP}{_ERASE}" * (self._drawn - 1) if self._drawn else ""
        self._out.write(above + text + "\n".join(self._bars.values()))
        self._out.flush()
        self._drawn = len(self._bars)


_SCREEN = Screen()


def draw_bar(done: int, total: int) -> str:
    """A bar of fixed width, full when done reaches total."""
    filled = _BAR_WIDTH * min(done, total) // max(total, 1)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]"
