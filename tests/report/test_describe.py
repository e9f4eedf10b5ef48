"""A Run as it is described from the store."""

from __future__ import annotations

from pathlib import Path

from tandem.record.run import write_record
from tandem.report.describe import describe_run
from tandem.store import open_store
from tests.spec.runs import parse, run_file


def test_stages_come_in_the_order_of_their_making_and_of_the_run_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    evals = [{"name": name, "data": "d.json", "of": of} for name, of in (("z", "base"), ("a", "checkpoint-every"))]
    submission = parse(run_file(evals=evals))
    place, _ = write_record(store, submission, {}, namespace="local", submitted_at="2026-01-01", again=False)
    wanted = [
        "train",
        "generate/z/2",
        "generate/z/10",
        "generate/a-step-000100/0",
        "generate/a-step-000200/0",
        "score/z/1234567890",
        "score/a-step-000100/0234567890",
    ]
    for stage in reversed(wanted):
        store.put_if_absent(f"{place.execution(stage, '001')}exit.json", b"")
    described = describe_run(store, place)
    assert [stage["stage"] for stage in described["stages"]] == wanted
    assert described["evals"] == ["z", "a"]
