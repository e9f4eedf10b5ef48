"""`tandem stage`: the process of a pod."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tandem.errors import BadConfiguration, Fault, TandemError
from tandem.outcome import LINE_MARK, Outcome, describe_failure
from tandem.process import die_with_parent
from tandem.stage.prebuilt import offer_prebuilt

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes reads the last words of a container; it exists in pods only."""


def run_stage(name: str) -> int:
    """Do the attempt that the environment describes; its outcome is the last line printed, and the exit code."""
    if "TANDEM_PARENT" in os.environ:
        die_with_parent(int(os.environ["TANDEM_PARENT"]))
    offer_prebuilt(os.environ)
    outcome = _attempt(name)
    line = outcome.to_json()
    sys.stdout.flush()
    sys.stdout.write(f"{LINE_MARK}{line}\n")
    sys.stdout.flush()
    if TERMINATION_LOG.is_file() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_text(line, encoding="utf-8")
    return outcome.exit_code


def _attempt(name: str) -> Outcome:
    from tandem.stage.attempt import run_attempt
    from tandem.stage.facts import read_facts
    from tandem.stage.pods import ALONE, read_pod

    try:
        facts = read_facts(os.environ)
        pod = read_pod(os.environ) if name == "train" else ALONE
        if facts.stage.split("/")[0] != name:
            raise BadConfiguration(
                Fault(
                    where=f"tandem stage {name}",
                    what=f"STAGE says {facts.stage}",
                    remedy="Give the command that belongs to the stage.",
                )
            )
    except TandemError as error:
        return describe_failure(error)
    execution = os.environ.get("TANDEM_EXECUTION") or os.environ.get("POD_UID") or f"{facts.attempt:03d}-unnamed"
    work = Path(os.environ.get("TANDEM_WORK") or tempfile.mkdtemp(prefix="tandem-"))
    cache = Path(os.environ.get("TANDEM_CACHE") or work / "cache")
    return run_attempt(facts, execution=execution, work=work, cache=cache, say=_say, pod=pod)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
