"""`tandem logs`."""

from __future__ import annotations

from tandem.cli.console import print_json, print_text
from tandem.cli.places import LOCAL
from tandem.record.run import find_run
from tandem.store.opening import open_store


def print_logs(run: str, store_url: str, *, stage: str, as_json: bool) -> None:
    """Print every log of the Run's executions that the store holds, in key order."""
    store = open_store(store_url, brief=True)
    place, _ = find_run(store, LOCAL, run)
    prefix = f"{place.prefix}{stage}"
    keys = [entry.key for entry in store.list(prefix) if "/logs/" in entry.key]
    texts = {key.removeprefix(place.prefix): store.get(key).decode("utf-8", "replace") for key in keys}
    if as_json:
        print_json(texts)
        return
    for name, text in texts.items():
        print_text(f"==> {name}\n{text}")
    if not texts:
        print_text(f"{place.run_id}: no logs{f' of {stage}' if stage else ''} yet")
