"""`tandem submit`: a Run file becomes a Run object in a cluster, and is followed to its end if that is asked for."""

from __future__ import annotations

import time
from pathlib import Path

from tandem.cli.console import Format, print_answer, print_document, tell, tell_progress
from tandem.cli.where import Login
from tandem.control.api import Object
from tandem.control.client import Submitted, await_first_look, follow_run, is_seen, submit_run
from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.inputs.references import list_references
from tandem.inputs.remote import find_unreachable
from tandem.report.run_status import describe_progress, draw_status
from tandem.spec import Submission
from tandem.spec.meant import read_run
from tandem.spec.run import Metadata

FIRST_LOOK_SECONDS = 15.0
"""How long a controller may take to look at a new Run for the first time: it takes less than one second."""

INTERRUPTED = 130


def submit_file(path: Path, login: Login, *, name: str, again: bool, dry_run: bool, wait: bool, output: Format) -> int:
    """Make the Run object, or say that it is there; the exit code says whether it works out, as far as one waited."""
    submission = read_submission(path)
    body = make_body(submission, name=name, again=again)
    api = login.for_run(submission.run).connect()
    made = submit_run(api, api.namespace, body, dry_run=dry_run)
    if dry_run:
        print_document(body, output)
        return 0
    tell(_describe(made))
    run = await_first_look(api, made.run, sleep=time.sleep, seconds=FIRST_LOOK_SECONDS)
    if not is_seen(run):
        _tell_unserved(run, wait=wait)
    elif wait and not _is_refused(run):
        try:
            for seen in follow_run(api, run, sleep=time.sleep, say=tell):
                run = seen
                _tell_change(run)
                if _is_refused(run):
                    break
        except KeyboardInterrupt:
            tell(f"the Run goes on; see it with `tandem status {run['metadata']['name']}`, end it with `tandem cancel`")
            return INTERRUPTED
    final = run
    print_answer(final, output, draw=lambda: draw_status(final))
    return _judge(final)


def read_submission(path: Path) -> Submission:
    """The Run file. Raises BadConfiguration with all its faults, inputs that no pod can reach among them."""
    reading = read_run(path)
    faults = list(reading.faults)
    if reading.submission is not None:
        for reference in list_references(reading.submission.run.spec):
            faults += find_unreachable(reference)
    if faults or reading.submission is None:
        raise BadConfiguration(faults)
    return reading.submission


def make_body(submission: Submission, *, name: str, again: bool) -> Object:
    """What is sent: the spec as it was written. Raises BadConfiguration for a name that no Run can have.

    `again` leaves the end of the name to the server, so that there is no Run of that name yet.
    """
    document = submission.to_document()
    metadata = document["metadata"]
    metadata.pop("namespace", None)
    metadata["name"] = _require_name(name) if name else metadata["name"]
    if again:
        metadata = {"generateName": f"{metadata.pop('name')[:_LONGEST_STEM].rstrip('-')}-", **metadata}
    return {**document, "metadata": metadata}


_LONGEST_STEM = 24
"""Characters: the server adds five, and a name has at most 30."""


def _require_name(name: str) -> str:
    try:
        return Metadata(name=name).name
    except ValueError:
        what = f"{name[:80]!r} is no name of a Run"
        remedy = "Give at most 30 lower-case letters, digits and hyphens that begin with a letter."
        raise BadConfiguration(Fault(where="--name", what=what, remedy=remedy)) from None


def _describe(made: Submitted) -> str:
    metadata = made.run["metadata"]
    place = f"Run {metadata['namespace']}/{metadata['name']}"
    if made.is_new:
        return f"{place}: submitted"
    phase = (made.run.get("status") or {}).get("phase")
    hint = {"Suspended": "`tandem resume` lets it go on", "Cancelled": "`tandem submit --again` makes a new one"}
    end = f" ({phase}; {hint[phase]})" if phase in hint else "" if phase is None else f" ({phase})"
    return f"{place}: was submitted before{end}"


def _tell_unserved(run: Object, *, wait: bool) -> None:
    namespace = run["metadata"]["namespace"]
    fault = Fault(
        where=f"namespace {namespace}",
        what=f"no controller has looked at the Run for {FIRST_LOOK_SECONDS:.0f} s",
        remedy="Have the chart tandem installed there, or see its controller's log; `tandem check --cluster` looks.",
    )
    if wait:
        raise Unavailable(fault)
    tell(f"warning: {fault}")


def _tell_change(run: Object) -> None:
    status = run.get("status") or {}
    progress, attempt = status.get("progress"), status.get("attempt")
    message = status.get("message")
    line = f"{status.get('phase', 'Pending')}  {describe_progress(run)}".rstrip()
    if progress is not None and attempt is not None and progress["total"]:
        tell_progress(run["metadata"]["name"], line, progress["done"], progress["total"])
    else:
        tell(f"{run['metadata']['name']} | {line}" + (f": {message}" if message else ""))


def _is_refused(run: Object) -> bool:
    conditions = (run.get("status") or {}).get("conditions") or ()
    return any(
        one["type"] == "Stalled" and one["reason"] == "Refused" and one["status"] == "True" for one in conditions
    )


def _judge(run: Object) -> int:
    """0 while nothing is wrong with it; 78 if it was refused, 1 if it failed or was cancelled."""
    status = run.get("status") or {}
    if _is_refused(run):
        return BadConfiguration.exit_code
    return 1 if status.get("phase") in ("Failed", "Cancelled") else 0
