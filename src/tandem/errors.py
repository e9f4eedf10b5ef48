"""What can go wrong, as types: whether to retry is a class, never a matched string."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 2_000
"""Characters of each part of a fault: a path and some words, even where a file holds a text of megabytes."""
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Line breaks, control characters, changes of direction, and halves of surrogate pairs, which no UTF-8 can hold."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong: where it is, what it is, and what the user can do about it.

    One line whatever it is made of: names, keys and texts of damaged files may stand in it as they are.
    """

    where: str
    what: str
    remedy: str

    def __post_init__(self) -> None:
        for part in ("where", "what", "remedy"):
            object.__setattr__(self, part, _shorten(one_line(_shorten(getattr(self, part)))))

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}"


def one_line(text: str) -> str:
    """The text with line breaks and whatever else cannot be printed spelt out."""
    return _NOT_PRINTED.sub(lambda found: ascii(found[0])[1:-1], text)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class TandemError(Exception):
    """An expected failure: one line for each fault, and the exit code that the process ends with."""

    exit_code = 1
    code = "error"

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PermanentError(TandemError):
    """Trying again cannot help; someone has to change something first."""


class BadData(PermanentError):
    """The input data is wrong (EX_DATAERR)."""

    exit_code = 65
    code = "bad-data"


class BadConfiguration(PermanentError):
    """The Run file, the environment or the installation is wrong (EX_CONFIG)."""

    exit_code = 78
    code = "bad-configuration"


class RetryableError(TandemError):
    """Trying again may help."""


class OutOfMemory(RetryableError):
    """One sample alone needs more memory than there is; on a larger or emptier device it may fit."""

    code = "out-of-memory"


class Unavailable(RetryableError):
    """The store, the hub or the judge is away for now (EX_TEMPFAIL)."""

    exit_code = 75
    code = "unavailable"


class Stopped(RetryableError):
    """Told to stop (SIGTERM); what was done is saved and the next attempt goes on from there."""

    exit_code = 143
    code = "stopped"
