"""Where a check finds what a Run file names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Sources(Protocol):
    """Finds inputs on this machine."""

    def resolve(self, reference: str, revision: str | None = None) -> Path | None:
        """The file or folder that a path, an s3:// URI or a hub id means; None if it is not on this machine.

        Raises BadConfiguration or Unavailable where it has to be brought from elsewhere and cannot be.
        """
        ...
