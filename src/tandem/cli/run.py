"""`tandem run`: the whole of a Run on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tandem.check.report import Severity, raise_if_faults
from tandem.cli.check import check_reading, print_findings
from tandem.cli.console import Format, print_answer, tell, tell_stage_line
from tandem.cli.gpus import list_gpu_memory
from tandem.cli.places import LOCAL, cache_folder, hold_run, scratch_folder
from tandem.control.local import LocalBackend
from tandem.control.loop import drive
from tandem.control.plan import Finish, Phase
from tandem.control.settings import list_run_stages
from tandem.control.stages import Stage
from tandem.inputs import Resolver, list_references, pin_inputs
from tandem.outcome import Outcome
from tandem.record.run import parse_record, write_record
from tandem.report.describe import describe_run
from tandem.report.text import draw_run
from tandem.spec import Desired, Submission, sha256_hex
from tandem.spec.meant import read_run
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store, probe

INTERRUPTED = Outcome(
    exit_code=130,
    code="interrupted",
    message="interrupted; what was done is saved",
    remedy="Run the same command again to go on.",
)


def run_file(path: Path, store_url: str, *, again: bool, strict: bool, at_once: int, output: Format) -> int:
    """Check, record, and bring the Run to its end; its figures are printed, and its exit code is returned."""
    reading = read_run(path)
    gpus = list_gpu_memory()
    report = check_reading(reading, store_url, strict=strict, gpu_memory=min(gpus, default=None), gpus=len(gpus))
    print_findings(report.of_severity(Severity.WARNING))
    raise_if_faults(report)
    submission = reading.submission
    assert submission is not None  # nothing else is without a fault
    store = open_store(store_url, say=tell)
    probe(store)
    place, body = record_run(store, submission, again=again)
    tell(f"{place.run_id}: in {store.url}/{place.prefix}")
    end = complete_run(store, place, body, at_once=at_once)
    return report_end(store, place, end, output=output)


def record_run(store: Store, submission: Submission, *, again: bool) -> tuple[RunPlace, bytes]:
    """Digest the inputs and write run.json, once."""
    resolver = Resolver(folder=submission.folder, cache=cache_folder())
    pins = pin_inputs(list_references(submission.run.spec), resolver)
    return write_record(
        store,
        submission,
        {place: pin for place, (pin, _) in pins.items()},
        namespace=LOCAL,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        again=again,
    )


def complete_run(
    store: Store,
    place: RunPlace,
    body: bytes,
    *,
    stages: Callable[[], tuple[Stage, ...]] | None = None,
    at_once: int = 1,
) -> Finish | None:
    """Make every stage that is not committed yet, or only those that `stages` lists; None if interrupted."""
    spec = parse_record(body, where=place.record).parse_spec()
    scratch = scratch_folder(store, place)
    with hold_run(scratch, place), _interruptible() as desired:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        backend = LocalBackend(
            store=store,
            place=place,
            spec=spec,
            record_sha256=sha256_hex(body),
            cache=cache_folder(),
            scratch=scratch,
            environment=os.environ,
            now=time.time,
            sleep=time.sleep,
            say=tell_stage_line,
            at_once=at_once,
        )
        try:
            return drive(
                backend,
                stages or (lambda: list_run_stages(store, place, spec)),
                desired=lambda: desired[-1],
                max_attempts=spec.max_attempts,
                now=time.time,
            )
        finally:
            backend.kill()
            shutil.rmtree(scratch, ignore_errors=True)


def report_end(store: Store, place: RunPlace, end: Finish | None, *, output: Format) -> int:
    """Print how the Run ended, and its figures."""
    described = describe_run(store, place)
    print_answer(described, output, draw=lambda: draw_run(described))
    outcome = INTERRUPTED if end is None else end.outcome
    if outcome is None or (end is not None and end.phase is Phase.SUCCEEDED):
        return 0
    stage = f"{end.stage}: " if end is not None and end.stage else ""
    tell(f"tandem: {place.run_id}: {stage}{outcome.message}. {outcome.remedy}")
    return outcome.exit_code


@contextmanager
def _interruptible() -> Iterator[list[Desired]]:
    """Ctrl-C or SIGTERM asks the attempt to save its work; the second one ends everything at once."""
    desired = [Desired.ACTIVE]

    def stop(*_: object) -> None:
        if desired[-1] is Desired.SUSPENDED:
            raise KeyboardInterrupt
        tell("stopping: what runs saves its work (once more to end it at once)")
        desired.append(Desired.SUSPENDED)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield desired
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
