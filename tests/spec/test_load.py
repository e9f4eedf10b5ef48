from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandem.errors import BadConfiguration, Fault
from tandem.spec import Submission, load_run, parse_run, run_id
from tandem.spec.load import MAX_BYTES
from tests.spec.runs import parse, run_file

YAML = """\
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata:
  name: small
spec:
  model: {source: base}
  train:
    meta: meta.json
    epochs: 1
    batch: {globalSize: 8}
    optimizer: {learningRate: 4e-5}
"""


def parse_text(text: str | bytes) -> Submission:
    return parse_run(text.encode() if isinstance(text, str) else text, name="run.yaml", folder=Path("/somewhere"))


def faults_of(text: str | bytes) -> list[str]:
    with pytest.raises(BadConfiguration) as caught:
        parse_text(text)
    return [str(fault) for fault in caught.value.faults]


def test_4e_5_is_a_number() -> None:
    train = parse_text(YAML).run.spec.train
    assert train is not None
    assert train.optimizer.learning_rate == 0.00004


def test_a_submission_keeps_the_spec_as_written_and_its_id() -> None:
    submission = parse_text(YAML)
    assert submission.spec["train"] == {
        "meta": "meta.json",
        "epochs": 1,
        "batch": {"globalSize": 8},
        "optimizer": {"learningRate": 4e-5},
    }
    assert submission.id == run_id("small", submission.spec)
    assert submission.folder == Path("/somewhere")


def test_json_and_yaml_of_one_run_have_one_id() -> None:
    submission = parse_text(YAML)
    again = {
        "kind": "Run",
        "apiVersion": "tandem.dev/v1alpha1",
        "spec": submission.spec | {"desired": "Suspended"},
        "metadata": {"name": "small", "labels": {"team": "a"}},
    }
    assert parse_text(json.dumps(again)).id == submission.id


def test_what_a_default_is_today_is_no_part_of_the_id() -> None:
    assert parse(run_file()).id != parse(run_file(seed=0)).id


def test_every_fault_is_named_at_once_with_file_line_and_remedy_in_the_order_of_the_file() -> None:
    text = YAML.replace("kind: Run", "kind: Job").replace("  epochs: 1\n", "  epochz: 1\n").replace("4e-5", "fast")
    found = faults_of(text)
    assert found == [
        "run.yaml:2: kind: should be 'Run' (given: 'Job'). See the top level in docs/run-file.md.",
        "run.yaml:9: spec.train.epochz: unknown key. Did you mean epochs?",
        "run.yaml:11: spec.train.optimizer.learningRate: should be a number (given: 'fast'). "
        "Write a number, without quotes.",
    ]


def test_a_missing_key_is_named_at_the_section_that_lacks_it() -> None:
    assert faults_of(YAML.replace("    meta: meta.json\n", "")) == [
        "run.yaml:7: spec.train.meta: is missing. Add it. See spec.train in docs/run-file.md."
    ]


@pytest.mark.parametrize("key", ["learning_rate", "learningrate", "learning-rate", "learninRate"])
def test_a_misspelt_key_is_answered_with_the_right_one(key: str) -> None:
    assert faults_of(YAML.replace("learningRate", key)) == [
        f"run.yaml:11: spec.train.optimizer.{key}: unknown key. Did you mean learningRate?"
    ]


def test_a_whole_number_that_no_json_reader_keeps_exact_is_refused_however_it_is_written() -> None:
    assert faults_of(YAML.replace("epochs: 1", "epochs: 1\n    workers: 9007199254740992.0")) == [
        "run.yaml:10: spec.train.workers: is more than 2^53 - 1. Give a smaller number."
    ]


def test_a_key_with_a_line_break_stays_on_one_line() -> None:
    (fault,) = faults_of(YAML + '  "a\\nb\\u2028": 1\n')
    assert len(fault.splitlines()) == 1


@pytest.mark.parametrize("text", ["- a\n", "5", "text", "[]"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert faults_of(text)[0].startswith("run.yaml: is not a mapping")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null"])
def test_an_empty_file_is_called_empty(text: str) -> None:
    assert faults_of(text)[0].startswith("run.yaml: is empty")


def test_a_file_that_is_not_utf_8_is_refused_at_its_line() -> None:
    assert faults_of(b"a: 1\nb: \xff\n") == ["run.yaml:2: is not UTF-8. Save the file as UTF-8."]


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_text(b"\xef\xbb\xbf" + YAML.encode()).id == parse_text(YAML).id


def test_a_file_larger_than_a_kubernetes_object_is_refused() -> None:
    (fault,) = faults_of(b"#" * (MAX_BYTES + 1))
    assert f"more than {MAX_BYTES}" in fault


@pytest.mark.parametrize("name", ["absent.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadConfiguration, match="cannot be read") as caught:
        load_run(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML, encoding="utf-8")
    assert load_run(tmp_path / "run.yaml").folder == tmp_path.resolve()


BRACKETS = ("[", "]", "{", "}", ": ", "- ", "? ", "#", "'", '"', "|\n", ">\n", "\t", "\n", "  ", "[" * 200)
MACHINERY = ("&a ", "*a ", "!!python/object:os.system ", "!!binary ", "!!int ", "<<: ", "%YAML 9\n", "---\n", "...\n")
SCALARS = ("0777", "1_0", "0x", "9" * 5000, ".nan", "-.inf", "1e999", "y", "on", "~", "1:30", "2026-01-01")
CHARACTERS = ("\0", "\ufeff", "\u2028", "\\ud800")

pieces = st.sampled_from([*YAML.splitlines(keepends=True), *BRACKETS, *MACHINERY, *SCALARS, *CHARACTERS])


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"&a [*a]")
@example(b"!!int ''")
@example(b"!!bool x")
@example(b'"\\UFFFFFFFF"')
@example(b"%YAML " + b"9" * 5000 + b".1\n--- a")
def test_any_bytes_are_a_run_or_one_line_a_fault(body: bytes) -> None:
    expect_run_or_faults(body)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=40).map("".join))
def test_any_pieces_of_yaml_are_a_run_or_one_line_a_fault(text: str) -> None:
    expect_run_or_faults(text.encode("utf-8", "surrogatepass"))


keys = st.sampled_from(["model", "train", "evals", "seed", "limit", "desired", "spec", "metadata", "name", "x\ny"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.integers(10**15, 10**20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.sampled_from(["model", "train", "evals", "seed", "limit", "desired", "maxAttempts", "new"]))
def test_any_value_of_any_part_is_a_run_or_one_line_a_fault(value: Any, key: str) -> None:
    expect_run_or_faults(json.dumps(run_file(**{key: value})).encode())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_at_any_leaf_is_a_run_or_one_line_a_fault(data: st.DataObject) -> None:
    document = run_file()
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(json_values)
    expect_run_or_faults(json.dumps(document).encode())


@pytest.mark.parametrize(
    "body",
    [b"[" * 400_000, b"- " * 200_000, b"? " * 200_000, b"{?" * 200_000, b"spec: " + b"9" * 400_000, b"k: 1\n" * 80_000],
    ids=["brackets", "dashes", "question marks", "braces", "digits", "lines"],
)
@pytest.mark.timeout(60)
def test_hostile_files_end_soon(body: bytes) -> None:
    expect_run_or_faults(body)


def expect_run_or_faults(body: bytes) -> None:
    try:
        submission = parse_text(body)
    except BadConfiguration as error:
        expect_clear_lines(error.faults)
    else:
        assert submission.id.startswith(submission.run.metadata.name)


def expect_clear_lines(faults: tuple[Fault, ...]) -> None:
    assert faults
    for fault in faults:
        assert fault.where.startswith("run.yaml")
        assert fault.what
        assert fault.remedy
        assert len(str(fault).splitlines()) == 1
        str(fault).encode("utf-8")
