"""Any meta file and any training sample is read, or a fault with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tandem.check.report import Collector
from tandem.check.training import check_ids, read_case_ids, read_training_sets
from tandem.inputs import Resolver
from tandem.train.annotations import BadSample, scan_samples
from tandem.train.meta import read_meta
from tests.fuzz.damage import damaged_json, damaged_lines, expect_clear_faults, fuzzing, read_or_faults, write_json
from tests.spec.runs import parse, run_file

pytestmark = pytest.mark.timeout(120)

META: dict[str, Any] = {
    "one": {"root": "images", "annotation": "a.jsonl", "data_augment": False, "repeat_time": 2},
    "two": {
        "root": "images",
        "annotation": "a.jsonl",
        "data_augment": True,
        "repeat_time": 0.5,
        "max_dynamic_patch": 6,
        "length": 3,
    },
}
SAMPLES: list[dict[str, Any]] = [
    {
        "id": number,
        "image": ["a.png", "b.png"],
        "width_list": [1, 2],
        "case_id": "c",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image>\n<image>\nWhich digit?"},
            {"from": "gpt", "value": "I look. ### The final answer is: 3"},
        ],
    }
    for number in range(3)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(write_json(sample) + b"\n" for sample in SAMPLES))
    (folder / "meta.json").write_bytes(write_json(META))
    return folder


def test_the_whole_files_are_their_samples(folder: Path) -> None:
    assert len(list(scan_samples(read_meta(folder / "meta.json")))) == 3 * 2 + 1


@fuzzing(1000)
@given(damaged_json(META, indent=1))
def test_a_damaged_meta_file_is_data_sets_or_faults(folder: Path, body: bytes) -> None:
    path = folder / "damaged.json"
    path.write_bytes(body)
    read_or_faults(lambda: list(scan_samples(read_meta(path))))


@fuzzing(1000)
@given(damaged_lines(SAMPLES))
def test_damaged_samples_are_samples_or_faults(folder: Path, body: bytes) -> None:
    (folder / "damaged.jsonl").write_bytes(body)
    entry = {**META["one"], "annotation": "damaged.jsonl"}
    (folder / "lines.json").write_bytes(write_json({"one": entry, "two": {**entry, "repeat_time": 0.7}}))
    findings = Collector()
    spec = parse(run_file(train={"meta": "lines.json", "epochs": 1, "batch": {"globalSize": 1}})).run.spec
    for one in read_training_sets(spec, Resolver(folder=folder, cache=folder), findings):
        check_ids(one, findings)
        read_or_faults(lambda one=one: read_case_ids(one))  # type: ignore[misc]
    expect_clear_faults([finding.fault for finding in findings.findings])
    for sample in scan_samples(read_meta(folder / "lines.json")):
        if isinstance(sample, BadSample):
            expect_clear_faults(sample.faults)
