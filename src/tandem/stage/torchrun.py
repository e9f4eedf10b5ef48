"""torchrun, started so that it cannot outlive the stage's process: `python -m tandem.stage.torchrun PARENT ...`."""

from __future__ import annotations

import sys

from tandem.process import die_with_parent


def main() -> None:
    """Tie this process to the parent whose pid is the first argument, then be torchrun with the others."""
    die_with_parent(int(sys.argv[1]))
    from torch.distributed.run import main as torchrun

    torchrun(sys.argv[2:])


if __name__ == "__main__":
    main()
