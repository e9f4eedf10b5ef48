"""Any Run file is a Run, or faults with their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.spec import Submission, parse_run
from tests.fuzz.damage import damaged_bytes, damaged_json, fuzzing, read_or_faults
from tests.spec.runs import run_file

pytestmark = pytest.mark.timeout(120)

JOBS = Path(__file__).parents[2] / "jobs"
RUN: dict[str, Any] = run_file(
    seed=7,
    limit=100,
    maxAttempts=2,
    desired="Active",
    train={
        "meta": "meta.json",
        "epochs": 1.5,
        "ranks": 2,
        "tiles": {"max": 6, "rule": "perImage", "thumbnail": False},
        "maxLength": 256,
        "lora": {"r": 16, "alpha": 32, "dropout": 0.05},
        "batch": {"globalSize": 32, "packedTokens": 1024},
        "optimizer": {"learningRate": 4e-3, "weightDecay": 0.01, "warmupRatio": 0.03},
        "validation": {"meta": "val.json"},
        "checkpoints": {"everySteps": 50},
        "answerTemplate": "So: {answer}",
    },
    evals=[
        {"name": "base", "of": "base", "data": "a.json", "tiles": {"max": 6}, "judge": {"kind": "exact"}},
        {
            "name": "heldout",
            "data": "b.json",
            "images": "images",
            "bertScore": {"model": "minilm"},
            "judge": {"kind": "openai", "baseUrl": "http://judge/v1", "model": "m", "keyEnv": "KEY"},
        },
    ],
)


def read(body: bytes) -> Submission | None:
    return read_or_faults(lambda: parse_run(body, name="run.yaml", folder=Path("/somewhere")))


def test_the_whole_document_is_a_run() -> None:
    assert read(str(RUN).replace("'", '"').replace("False", "false").encode()) is not None


@fuzzing(500)
@given(damaged_json(RUN, indent=1))
def test_a_damaged_run_file_in_json_is_a_run_or_faults(body: bytes) -> None:
    read(body)


@fuzzing(500)
@given(st.sampled_from(sorted(JOBS.glob("*.yaml"))).flatmap(lambda path: damaged_bytes(path.read_bytes())))
def test_a_damaged_run_file_in_yaml_is_a_run_or_faults(body: bytes) -> None:
    read(body)
