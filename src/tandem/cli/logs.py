"""`tandem logs`: from the store, or of a cluster's pods and, once those are gone, from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.cli.console import Format, print_answer, tell
from tandem.errors import BadConfiguration, Fault, TandemError
from tandem.record.run import find_run
from tandem.report.describe import find_stages
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store

if TYPE_CHECKING:
    from tandem.cli.where import Login


def print_stored_logs(run: str, store_url: str, *, namespace: str | None, stage: str, output: Format) -> None:
    """Print every log of the Run's attempts that the store holds, stage by stage.

    `stage` is a stage's name or its beginning, such as generate/base. Raises BadConfiguration if none begins so.
    """
    store = open_store(store_url, brief=True)
    place, _ = find_run(store, run, namespace=namespace)
    begun = find_stages(store, place)
    if stage and not _choose(begun, stage):
        what = f"is no stage of {place.run_id} that has begun"
        remedy = f"Give one of {', '.join(begun)}, or the beginning of one." if begun else "Start the Run first."
        raise BadConfiguration(Fault(where=f"--stage {stage}", what=what, remedy=remedy))
    _print(place.run_id, _read_logs(store, place, stage), stage, output)


def print_cluster_logs(run: str, login: Login, *, stage: str, output: Format) -> None:
    """Print the logs of attempts whose pods are gone, as far as the store can be read, then those of the pods."""
    from tandem.control.client import find_run as find_object
    from tandem.control.client import read_logs

    api = login.connect()
    found = find_object(api, api.namespace, run)
    of_pods = {f"pod {name}": text.decode("utf-8", "replace") for name, text in read_logs(api, found, stage).items()}
    status = found.get("status") or {}
    stored: dict[str, str] = {}
    if "folder" in status:
        place = RunPlace(namespace=api.namespace, run_id=status["runId"])
        try:
            store = open_store(status["folder"].removesuffix(place.prefix), brief=True)
            stored = _read_logs(store, place, stage)
        except TandemError as error:
            tell(f"warning: logs of pods that are gone cannot be read here: {error}")
    gone = {key: text for key, text in stored.items() if f"pod {key.rpartition('/')[2][: -len('.log')]}" not in of_pods}
    _print(found["metadata"]["name"], gone | of_pods, stage, output)


def _choose(begun: list[str], stage: str) -> list[str]:
    return [name for name in begun if not stage or f"{name}/".startswith(f"{stage.rstrip('/')}/")]


def _read_logs(store: Store, place: RunPlace, stage: str) -> dict[str, str]:
    """Texts by key below the Run's folder."""
    chosen = _choose(find_stages(store, place), stage)
    keys = [entry.key for name in chosen for entry in store.list(place.stage(name)) if "/logs/" in entry.key]
    return {key.removeprefix(place.prefix): store.get(key).decode("utf-8", "replace") for key in keys}


def _print(run: str, texts: dict[str, str], stage: str, output: Format) -> None:
    nothing = f"{run}: no logs{f' of {stage}' if stage else ''} yet"
    print_answer(
        texts,
        output,
        draw=lambda: "\n".join(f"==> {name}\n{text}".rstrip("\n") for name, text in texts.items()) or nothing,
    )
