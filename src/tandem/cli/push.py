"""`tandem push`."""

from __future__ import annotations

from pathlib import Path

from tandem.cli.console import print_text, tell
from tandem.store import Store


def push_path(path: Path, store_url: str) -> None:
    """Upload a folder and print its URI; or all local inputs of a Run file, and print the Run with their URIs."""
    from tandem.inputs.push import push_folder
    from tandem.store.opening import open_store, probe

    store = open_store(store_url, say=tell)
    probe(store)
    if path.is_dir():
        uri, files, size = push_folder(store, path)
        tell(f"{files} files, {size} bytes")
        print_text(uri)
        return
    print_text(_push_run(path, store))


def _push_run(path: Path, store: Store) -> str:
    from tandem.cli.places import cache_folder
    from tandem.inputs import Resolver
    from tandem.inputs.push import push_inputs
    from tandem.spec import load_run
    from tandem.spec.dump import dump_yaml

    submission = load_run(path)
    resolver = Resolver(folder=submission.folder, cache=cache_folder())
    spec = push_inputs(submission, resolver, store, report=tell)
    run = submission.run
    metadata = run.metadata.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document = {"apiVersion": run.api_version, "kind": run.kind, "metadata": metadata, "spec": spec}
    return dump_yaml(document)
