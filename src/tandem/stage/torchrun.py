"""torchrun, started so that it cannot outlive the stage's process.

`python -m tandem.stage.torchrun PARENT GRACE ...`: the pid of that process, the seconds that ranks have after SIGTERM,
and torchrun's own arguments.
"""

from __future__ import annotations

import os
import signal
import sys

from tandem.model.libraries import importing_much
from tandem.process import die_with_parent

TOLD_BEFORE_RANKS = 143
"""Exit code after SIGTERM while no rank was started yet; later torchrun itself handles it, and exits with 1."""


def limit_shutdown(grace: str, known: str) -> list[str]:
    """Arguments of torchrun for so many seconds between SIGTERM and SIGKILL; none where its help knows no such limit.

    Without it, as in torch 2.11, ranks have torchrun's own 30 s.
    """
    option = "--shutdown-timeout"
    return [option, grace] if option in known else []


def main() -> None:
    """Tie this process to the parent, then be torchrun."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD_BEFORE_RANKS))
    os.environ["TANDEM_TORCHRUN"] = str(os.getpid())  # see tandem.train.rank
    with importing_much():
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import get_args_parser
        from torch.distributed.run import main as torchrun

    try:
        torchrun([*limit_shutdown(sys.argv[2], get_args_parser().format_help()), *sys.argv[3:]])
    except (ChildFailedError, SignalException):  # the ranks have said why; torchrun's own stack explains nothing
        sys.exit(1)


if __name__ == "__main__":
    main()
