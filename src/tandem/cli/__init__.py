"""The command line: thin commands, one line for each fault, and an exit code that says whether to retry."""

from __future__ import annotations

import atexit
import gc
import sys

from tandem.errors import TandemError


def main() -> None:
    """Run a command; expected failures are one line each and an exit code, everything else is a traceback."""
    from tandem.cli.app import app

    atexit.register(gc.freeze)  # or the interpreter looks through all of torch and transformers before it ends
    try:
        app()
    except TandemError as error:
        for fault in error.faults:
            sys.stderr.write(f"tandem: {fault}\n")
        sys.exit(error.exit_code)
