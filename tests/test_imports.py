"""The rooms of src/tandem keep to their borders, in what they import and in when they import it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "accelerate",
    "aiohttp",
    "bert_score",
    "boto3",
    "deepspeed",
    "httpx2",
    "kubernetes",
    "openai",
    "peft",
    "torch",
    "transformers",
)

IMPORT_ALL = """
import importlib, json, pkgutil, sys
room, left_out, heavy = json.loads(sys.argv[1])
package = importlib.import_module(room)
found = [room]
for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{room}."):
    if module.name not in left_out and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        found.append(module.name)
print(json.dumps([found, sorted(set(heavy) & set(sys.modules))]))
"""


def test_every_import_contract_is_kept() -> None:
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None, no_cache=True))"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout


# Imports inside functions are the contracts' business; these rooms must be light to import, whatever calls them.
@pytest.mark.parametrize(
    "room",
    [
        "errors",
        "outcome",
        "process",
        "spec",
        "store",
        "record",
        "report",
        "inputs",
        "control",
        "readiness",
        "stage",
        "check",
        "cli",
    ],
)
def test_importing_a_whole_room_loads_nothing_heavy(room: str) -> None:
    left_out = ["tandem.control.cluster"]  # owns the kubernetes client, and is imported only where there is a cluster
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps([f"tandem.{room}", left_out, HEAVY])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    modules, loaded = json.loads(ended.stdout)
    assert modules
    assert loaded == []
