"""torchrun, started so that it cannot outlive the stage's process: `python -m tandem.stage.torchrun PARENT ...`."""

from __future__ import annotations

import os
import signal
import sys

from tandem.process import die_with_parent

TOLD_BEFORE_RANKS = 143
"""Exit code after SIGTERM while no rank was started yet; later torchrun itself handles it, and exits with 1."""


def main() -> None:
    """Tie this process to the parent whose pid is the first argument, then be torchrun with the others."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD_BEFORE_RANKS))
    os.environ["TANDEM_TORCHRUN"] = str(os.getpid())  # see tandem.train.rank
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(sys.argv[2:])
    except (ChildFailedError, SignalException):  # the ranks have said why; torchrun's own stack explains nothing
        sys.exit(1)


if __name__ == "__main__":
    main()
