"""What can go wrong, as types: whether to retry is a class, never a matched string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong: where it is, what it is, and what the user can do about it."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}"


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
