"""`tandem list` and `tandem show`, from a store."""

from __future__ import annotations

from typing import Any

from tandem.cli.console import Format, print_answer, tell
from tandem.errors import BadData
from tandem.record.commit import is_committed
from tandem.record.run import find_run, list_namespaces, list_runs, parse_record
from tandem.report.describe import describe_run, find_stages
from tandem.report.text import draw_run, draw_table
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store


def list_stored_runs(store_url: str, *, namespace: str | None, output: Format) -> None:
    """Every Run of the store with how many of its stages are committed; a damaged one hides no other."""
    store = open_store(store_url, brief=True)
    namespaces = list_namespaces(store) if namespace is None else [namespace]
    found = [_summarise(store, place) for one in namespaces for place in list_runs(store, one)]
    print_answer(found, output, draw=lambda: _draw(found) if found else f"no Runs in {store.url}")
    if output is Format.TABLE:
        for entry in found:
            if entry["fault"] is not None:
                tell(f"tandem: {entry['fault']}")


def _draw(found: list[dict[str, Any]]) -> str:
    rows = [
        (
            entry["run"],
            entry["namespace"],
            entry["submittedAt"] or "(damaged)",
            f"{entry['committed']} of {entry['stages']}",
        )
        for entry in found
    ]
    return draw_table(("run", "namespace", "submitted", "stages committed"), rows)


def _summarise(store: Store, place: RunPlace) -> dict[str, Any]:
    submitted_at = fault = None
    try:
        submitted_at = parse_record(store.get(place.record), where=place.record).submitted_at
    except BadData as error:
        fault = str(error)
    stages = find_stages(store, place)
    return {
        "run": place.run_id,
        "namespace": place.namespace,
        "submittedAt": submitted_at,
        "stages": len(stages),
        "committed": sum(is_committed(store, place, stage) for stage in stages),
        "fault": fault,
    }


def show_run(
    run: str, store_url: str, *, namespace: str | None, across_preprocessing: bool = False, output: Format
) -> None:
    """One Run, whole."""
    store = open_store(store_url, brief=True)
    place, _ = find_run(store, run, namespace=namespace)
    described = describe_run(store, place)
    print_answer(described, output, draw=lambda: draw_run(described, across_preprocessing=across_preprocessing))
