"""Any evaluation file is samples, or faults with their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tandem.check.evaluation import read_eval_sets
from tandem.check.report import Collector
from tandem.evaluate.samples import parse_eval_samples
from tandem.inputs import Resolver
from tests.fuzz.damage import damaged_json, damaged_lines, expect_clear_faults, fuzzing, read_or_faults
from tests.spec.runs import parse, run_file

pytestmark = pytest.mark.timeout(120)

SAMPLES: list[dict[str, Any]] = [
    {
        "id": f"s{number}",
        "img_name": ["a.png", "sub/b.png"][: number % 3] if number else "a.png",
        "question": "What is it?",
        "reasoning": "I look.",
        "answer": "A three.",
        "answer_type": "OPEN",
        "case_id": number,
    }
    for number in range(3)
]


def test_the_whole_file_is_its_samples() -> None:
    assert len(parse_eval_samples(b"%s" % repr(SAMPLES).replace("'", '"').encode(), where="e.json")) == 3


@fuzzing(500)
@given(damaged_json(SAMPLES))
def test_a_damaged_list_is_samples_or_faults(body: bytes) -> None:
    read_or_faults(lambda: parse_eval_samples(body, where="e.json"))


@fuzzing(300)
@given(damaged_lines(SAMPLES))
def test_damaged_lines_are_samples_or_faults(body: bytes) -> None:
    read_or_faults(lambda: parse_eval_samples(body, where="e.jsonl"))


@fuzzing(200)
@given(damaged_lines(SAMPLES) | damaged_json(SAMPLES))
def test_the_check_finds_all_that_can_be_read_and_the_faults(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "heldout.json").write_bytes(body)
    findings = Collector()
    spec = parse(run_file()).run.spec
    read_eval_sets(spec, Resolver(folder=tmp_path, cache=tmp_path), findings)
    expect_clear_faults([finding.fault for finding in findings.findings])
