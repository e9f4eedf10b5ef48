from __future__ import annotations

from typing import Any

import lupa
import pytest
import yaml

from tests.charts.places import ROOT

CONFIG = yaml.safe_load((ROOT / "k8s" / "argocd" / "argocd-cm.yaml").read_text(encoding="utf-8"))
HEALTH = CONFIG["data"]["resource.customizations.health.tandem.dev_Run"]


def health(status: dict[str, Any] | None, generation: int = 1) -> tuple[str, str]:
    """What Argo CD would say; it calls the script with the object as `obj`."""
    lua = lupa.LuaRuntime()
    run = {"metadata": {"generation": generation}, **({} if status is None else {"status": status})}
    lua.globals().obj = lua.table_from(run, recursive=True)
    answer = lua.execute(HEALTH)
    return answer["status"], answer["message"]


def test_a_run_that_no_controller_has_seen_is_progressing() -> None:
    assert health(None)[0] == "Progressing"
    assert health({"phase": "Succeeded", "observedGeneration": 1}, generation=2)[0] == "Progressing"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("Pending", "Progressing"),
        ("Running", "Progressing"),
        ("Succeeded", "Healthy"),
        ("Failed", "Degraded"),
        ("Suspended", "Suspended"),
        ("Cancelled", "Suspended"),
    ],
)
def test_each_phase_has_a_health(phase: str, expected: str) -> None:
    assert health({"phase": phase, "observedGeneration": 1})[0] == expected


def test_a_failure_comes_with_its_remedy_and_a_success_with_its_figures() -> None:
    failed = {"phase": "Failed", "observedGeneration": 1, "message": "bad data", "remedy": "Mend line 3."}
    assert health(failed)[1] == "bad data. Mend line 3."
    assert health({"phase": "Succeeded", "observedGeneration": 1, "figures": "adapter 0.987"})[1] == "adapter 0.987"


def test_a_stalled_run_is_degraded_and_says_why() -> None:
    stalled = {"type": "Stalled", "status": "True", "message": "no such profile"}
    running = {"phase": "Pending", "observedGeneration": 1, "conditions": [stalled]}
    assert health(running) == ("Degraded", "no such profile")
    going = {**running, "conditions": [{**stalled, "status": "False"}], "progress": {"text": "40/150 steps"}}
    assert health(going) == ("Progressing", "40/150 steps")
