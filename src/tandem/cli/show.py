"""`tandem list` and `tandem show`."""

from __future__ import annotations

from typing import Any

from tandem.cli.console import print_json, print_text, tell
from tandem.cli.places import LOCAL
from tandem.errors import BadData
from tandem.record.commit import is_committed
from tandem.record.run import find_run, list_runs, parse_record
from tandem.report.describe import describe_run, find_stages
from tandem.report.text import draw_run, draw_table
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store


def list_all(store_url: str, *, as_json: bool) -> None:
    """Every Run of the store with how many of its stages are committed; a damaged one hides no other."""
    store = open_store(store_url, brief=True)
    found = [_summarise(store, place) for place in list_runs(store, LOCAL)]
    if as_json:
        print_json(found)
        return
    rows = [
        (entry["run"], entry["submittedAt"] or "(damaged)", f"{entry['committed']} of {entry['stages']}")
        for entry in found
    ]
    print_text(draw_table(("run", "submitted", "stages committed"), rows) if rows else f"no Runs in {store.url}")
    for entry in found:
        if entry["fault"] is not None:
            tell(f"tandem: {entry['fault']}")


def _summarise(store: Store, place: RunPlace) -> dict[str, Any]:
    submitted_at = fault = None
    try:
        submitted_at = parse_record(store.get(place.record), where=place.record).submitted_at
    except BadData as error:
        fault = str(error)
    stages = find_stages(store, place)
    return {
        "run": place.run_id,
        "submittedAt": submitted_at,
        "stages": len(stages),
        "committed": sum(is_committed(store, place, stage) for stage in stages),
        "fault": fault,
    }


def show_run(run: str, store_url: str, *, across_preprocessing: bool = False, as_json: bool) -> None:
    """One Run, whole."""
    store = open_store(store_url, brief=True)
    place, _ = find_run(store, LOCAL, run)
    described = describe_run(store, place)
    if as_json:
        print_json(described)
    else:
        print_text(draw_run(described, across_preprocessing=across_preprocessing))
