"""`tandem logs`."""

from __future__ import annotations

from tandem.cli.console import print_json, print_text
from tandem.cli.places import LOCAL
from tandem.errors import BadConfiguration, Fault
from tandem.record.run import find_run
from tandem.report.describe import find_stages
from tandem.store.opening import open_store


def print_logs(run: str, store_url: str, *, stage: str, as_json: bool) -> None:
    """Print every log of the Run's attempts that the store holds, stage by stage.

    `stage` is a stage's name or its beginning, such as generate/base. Raises BadConfiguration if none begins so.
    """
    store = open_store(store_url, brief=True)
    place, _ = find_run(store, LOCAL, run)
    begun = find_stages(store, place)
    chosen = [name for name in begun if not stage or f"{name}/".startswith(f"{stage.rstrip('/')}/")]
    if stage and not chosen:
        what = f"is no stage of {place.run_id} that has begun"
        remedy = f"Give one of {', '.join(begun)}, or the beginning of one." if begun else "Start the Run first."
        raise BadConfiguration(Fault(where=f"--stage {stage}", what=what, remedy=remedy))
    keys = [entry.key for name in chosen for entry in store.list(place.stage(name)) if "/logs/" in entry.key]
    texts = {key.removeprefix(place.prefix): store.get(key).decode("utf-8", "replace") for key in keys}
    if as_json:
        print_json(texts)
        return
    for name, text in texts.items():
        print_text(f"==> {name}\n{text}")
    if not texts:
        print_text(f"{place.run_id}: no logs{f' of {stage}' if stage else ''} yet")
