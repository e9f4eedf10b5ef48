"""Any file of scoring settings is settings, or faults with their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from tandem.cli.score import ScoreSettings, read_settings
from tandem.control.settings import describe_scoring, score_id
from tandem.errors import BadConfiguration
from tests.fuzz.damage import damaged_bytes, damaged_json, fuzzing, read_or_faults
from tests.spec.runs import parse, run_file

pytestmark = pytest.mark.timeout(120)

SETTINGS: dict[str, Any] = {
    "judge": {"kind": "openai", "baseUrl": "http://judge/v1", "model": "m", "keyEnv": "KEY", "maxRetries": 2},
    "bertScore": {"model": "minilm", "layer": 2},
}
TEXT = yaml.safe_dump(SETTINGS).encode()


def read(folder: Path, body: bytes) -> ScoreSettings | None:
    path = folder / "settings.yaml"
    path.write_bytes(body)
    found = read_or_faults(lambda: read_settings(path))
    if found is not None:
        (entry,) = parse(run_file()).run.spec.evals
        assert len(score_id(describe_scoring(entry, 0, judge=found.judge, bert_score=found.bert_score))) == 10
    return found


def test_the_whole_file_is_settings(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert found is not None
    assert found.judge is not None
    assert found.bert_score is not None


@fuzzing(600)
@given(damaged_json(SETTINGS, indent=1))
def test_damaged_settings_in_json_are_settings_or_faults(tmp_path: Path, body: bytes) -> None:
    read(tmp_path, body)


@fuzzing(400)
@given(damaged_bytes(TEXT))
def test_damaged_settings_in_yaml_are_settings_or_faults(tmp_path: Path, body: bytes) -> None:
    read(tmp_path, body)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("judge:\n  knd: exact\n", "settings.yaml:2: judge.knd: unknown key. Did you mean kind?"),
        ("judge:\n  kind: 5\n", "settings.yaml:2: judge.kind: "),
        ("\n\nbertScore: {layer: '2'}\n", "settings.yaml:3: bertScore.layer: should be a whole number"),
        ("judge: *a\n", "settings.yaml:1: the alias *a is not supported"),
        ("", "settings.yaml: is empty. Write keys of spec.evals as in a Run file (see docs/run-file.md)."),
        ("judge: \x07\n", "settings.yaml:1: holds the character U+0007"),
    ],
)
def test_a_fault_has_its_line_and_a_remedy(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(BadConfiguration) as caught:
        read_settings(tmp_path / "settings.yaml")
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(line)
