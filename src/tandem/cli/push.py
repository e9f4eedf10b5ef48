"""`tandem push`."""

from __future__ import annotations

from pathlib import Path

from tandem.cli.console import print_text, tell
from tandem.errors import BadConfiguration, Fault, PermanentError
from tandem.store import Store


def push_path(path: Path, store_url: str) -> None:
    """Upload a folder and print its URI; or all local inputs of a Run file, and print the Run with their URIs."""
    from tandem.cli.places import cache_folder
    from tandem.inputs import Resolver
    from tandem.inputs.push import push_folder

    if Resolver(folder=Path.cwd(), cache=cache_folder()).resolve(str(path)) is None:
        remedy = "Give a folder (a model, an adapter, a data set with its images), or a Run file."
        raise BadConfiguration(Fault(where=str(path), what="there is no such folder or file", remedy=remedy))
    if not path.is_dir():
        print_text(_push_run(path, store_url))
        return
    uri, files, size = push_folder(_open(store_url), path)
    tell(f"{files} files, {size} bytes")
    print_text(uri)


def _open(store_url: str) -> Store:
    from tandem.store.opening import open_store, probe

    store = open_store(store_url, say=tell)
    probe(store)
    return store


def _push_run(path: Path, store_url: str) -> str:
    """Nothing goes up while anything is wrong with the file or with what it names."""
    from tandem.cli.places import cache_folder
    from tandem.inputs import Resolver
    from tandem.inputs.push import find_local_inputs, push_inputs
    from tandem.spec.dump import dump_yaml
    from tandem.spec.meant import read_run

    reading = read_run(path)
    submission = reading.submission
    if submission is None:
        raise BadConfiguration(reading.faults)
    resolver = Resolver(folder=submission.folder, cache=cache_folder())
    try:
        inputs = find_local_inputs(submission.run.spec, resolver)
    except PermanentError as error:
        kind = BadConfiguration if reading.faults else type(error)
        raise kind([*reading.faults, *error.faults]) from None
    if reading.faults:
        raise BadConfiguration(reading.faults)
    spec = push_inputs(submission.spec, inputs, resolver, _open(store_url), report=tell)
    return dump_yaml({**submission.to_document(), "spec": spec})
