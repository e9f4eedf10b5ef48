"""One attempt from start to end: work, then outcome, then everything into the store, the manifest last."""

from __future__ import annotations

import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.errors import Fault, Stopped
from tandem.inputs import Resolver
from tandem.outcome import Outcome, choose_strongest, describe_failure
from tandem.stage.context import Context, load_record
from tandem.stage.facts import Facts
from tandem.stage.pods import ALONE, Pod
from tandem.store import Store
from tandem.store.files import typed_os_errors
from tandem.store.layout import EXIT
from tandem.store.opening import open_store
from tandem.store.trees import upload_tree


def run_attempt(
    facts: Facts, *, execution: str, work: Path, cache: Path, say: Callable[[str], None], pod: Pod = ALONE
) -> Outcome:
    """Do one attempt of one stage and return how it ended.

    Whatever happens, the outcome and the logs are in the store afterwards if the store can be reached; the
    manifest, which makes the execution count, is only written after success. Of several pods that train together
    only the first one writes there; the others' checkpoints go into its execution.
    """
    store = open_store(facts.store_url, say=say)
    prefix = facts.place.execution(facts.stage, execution)
    output = work / "output"
    output.mkdir(parents=True)
    try:
        outcome = _work(facts, execution=execution, work=work, cache=cache, say=say, pod=pod)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - every end must be told
        outcome = describe_failure(error)
        if outcome.code == "unexpected":
            traceback.print_exc(file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if pod.leads:
            _hand_in(store, output, prefix, outcome)
    except Exception as error:  # noqa: BLE001 - the work is done; what is left to say is that it did not arrive
        return choose_strongest((outcome, describe_failure(error)))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return outcome


def _hand_in(store: Store, output: Path, prefix: str, outcome: Outcome) -> None:
    """Everything after success, whose exit.json is part of the tree; else what explains the end."""
    body = f"{outcome.to_json()}\n".encode()
    if outcome.exit_code == 0:
        with typed_os_errors(str(output)):
            (output / EXIT).write_bytes(body)
        upload_tree(store, output, prefix)
        return
    for path in sorted(output.glob("logs/*")):
        store.put_file_if_absent(f"{prefix}{path.relative_to(output).as_posix()}", path)
    store.put_if_absent(f"{prefix}{EXIT}", body)


def _work(facts: Facts, *, execution: str, work: Path, cache: Path, say: Callable[[str], None], pod: Pod) -> Outcome:
    store = open_store(facts.store_url, say=say)
    record = load_record(store, facts)
    context = Context(
        facts=facts,
        execution=execution,
        store=store,
        record=record,
        spec=record.parse_spec(),
        resolver=Resolver(folder=Path(record.folder), cache=cache),
        work=work,
    )
    match facts.stage.split("/")[0]:
        case "train":
            from tandem.stage.train import run_train

            with _stopping():  # until torchrun is there to be told
                return run_train(context, say, pod)
        case "generate":
            from tandem.stage.generate import run_generate_stage

            with _stopping():
                return run_generate_stage(context, say)
        case _:
            from tandem.stage.score import run_score_stage

            with _stopping():
                return run_score_stage(context, say)


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM becomes Stopped, so that the end is told like any other."""

    def stop(*_: object) -> None:
        raise Stopped(
            Fault(where="this attempt", what="was told to stop", remedy="Run the same command again to go on.")
        )

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
