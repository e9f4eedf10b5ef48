"""Run files for tests, as the dictionaries that they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tandem.spec import Submission, parse_run

TRAINING: dict[str, Any] = {"meta": "meta.json", "epochs": 1, "batch": {"globalSize": 8}}
EVALUATION: dict[str, Any] = {"name": "heldout", "data": "heldout.json"}


def run_file(**spec: Any) -> dict[str, Any]:
    """A small valid Run that trains and evaluates; keys of its spec may be replaced, and removed by None."""
    whole = {"model": {"source": "base"}, "train": TRAINING, "evals": [EVALUATION], **spec}
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"name": "small"},
        "spec": copy.deepcopy({key: value for key, value in whole.items() if value is not None}),
    }


def parse(document: dict[str, Any]) -> Submission:
    """Parse a Run file given as a dictionary."""
    return parse_run(json.dumps(document, indent=1).encode(), name="run.json", folder=Path("/somewhere"))
