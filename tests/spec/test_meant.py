from __future__ import annotations

from pathlib import Path

import pytest

from tandem.spec import load_run
from tandem.spec.meant import Reading, read_run
from tests.spec.test_load import YAML

EVALS = """\
  evals:
    - {name: one, data: eval.json}
    - {name: two, data: eval.json, of: base}
"""


def read(folder: Path, text: str) -> Reading:
    (folder / "run.yaml").write_text(text)
    return read_run(folder / "run.yaml")


def whats(reading: Reading) -> list[str]:
    return [f"{fault.where.rpartition(': ')[2]} {fault.what}" for fault in reading.faults]


def test_a_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    reading = read(tmp_path, YAML + EVALS)
    assert reading.faults == ()
    assert reading.submission == load_run(tmp_path / "run.yaml")


def test_a_misspelt_key_is_read_as_the_one_it_resembles_and_does_not_hide_broken_rules(tmp_path: Path) -> None:
    text = YAML.replace("globalSize: 8", "globalsize: 9, perDevice: 2").replace("  epochs: 1\n", "  epochz: 1\n")
    reading = read(tmp_path, text + EVALS.replace("of: base", "of: checkpoint-best"))
    assert whats(reading) == [
        "spec.train.epochz unknown key",
        "spec.train.batch.globalSize is missing",
        "spec.train.batch.globalsize unknown key",
        "spec.train.batch.globalSize 9 is not a multiple of perDevice x ranks (2 x 1): it would not be the batch you "
        "asked for",
        "spec.evals[1].of checkpoint-best is the one with the lowest validation loss, and there is no validation",
    ]
    assert reading.submission is not None
    train = reading.submission.run.spec.train
    assert train is not None
    assert (train.epochs, train.batch.global_size) == (1, 9)


def test_an_unknown_key_beside_the_one_it_resembles_is_left_out(tmp_path: Path) -> None:
    reading = read(tmp_path, YAML.replace("epochs: 1", "epochs: 1\n    epoch: 2\n    colour: red"))
    assert whats(reading) == ["spec.train.epoch unknown key", "spec.train.colour unknown key"]
    assert reading.submission is not None
    assert reading.submission.run.spec.train is not None
    assert reading.submission.run.spec.train.epochs == 1


def test_rules_of_inner_sections_do_not_hide_those_of_outer_ones(tmp_path: Path) -> None:
    text = YAML.replace("    epochs: 1\n", "") + EVALS.replace("two", "one").replace(
        "eval.json}", "eval.json, judge: {kind: openai}}"
    )
    found = whats(read(tmp_path, text))
    assert [line.split()[0] for line in found] == [
        "spec.train.epochs",
        "spec.evals[0].judge.baseUrl",
        "spec.evals[0].judge.model",
        "spec.evals[1].name",
    ]


@pytest.mark.parametrize(
    "text",
    [YAML.replace("epochs: 1", "epochs: soon"), YAML.replace("name: small", "name: Small"), "nothing", "a: [", ""],
    ids=["a-text-for-a-number", "a-name-that-is-none", "a-text", "no-yaml", "nothing"],
)
def test_what_is_not_clear_is_not_guessed(tmp_path: Path, text: str) -> None:
    reading = read(tmp_path, text)
    assert reading.submission is None
    assert len(reading.faults) == 1
    assert reading.faults[0].where.startswith(str(tmp_path / "run.yaml"))


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    (fault,) = read_run(tmp_path / "gone.yaml").faults
    assert fault.remedy == "Give the path of a Run file."
