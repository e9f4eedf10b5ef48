"""A full disk, told as what it is: libraries that write files in their own way say little of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tandem.errors import BadConfiguration, Fault, TandemError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PROBE_BYTES = 1024 * 1024


@contextmanager
def telling_full_disk(folder: Path, *, saving: bool = False) -> Iterator[None]:
    """Turn what a full disk makes of the block into BadConfiguration that names the folder.

    saving: the block writes files below folder by whatever library. These raise errors of many types, so that after
    any of them the disk is asked whether it still takes 1 MiB.
    """
    try:
        yield
    except TandemError:
        raise
    except Exception as error:
        if _says_full(error) or (saving and _is_full(folder)):
            raise BadConfiguration(
                Fault(
                    where=str(folder),
                    what="the disk is full",
                    remedy="Make room on it, keep fewer checkpoints (train.checkpoints.keep) or give the pod a larger "
                    "volume. The next attempt goes on from the last checkpoint in the store.",
                )
            ) from error
        raise


def _says_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def _is_full(folder: Path) -> bool:
    probe = folder / f".room-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in _FULL
    finally:
        with suppress(OSError):
            probe.unlink()
    return False
