import json
from collections import Counter
from pathlib import Path

import pytest

from tandem.demo.data import BASE_META, HELDOUT, TRAIN_META, VALIDATION_META, write_data
from tandem.evaluate.samples import read_eval_samples
from tandem.spec.train import FINAL_ANSWER
from tandem.train.annotations import SampleRef, read_samples
from tandem.train.meta import read_meta

MARKER = FINAL_ANSWER.partition("{")[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    folder.mkdir()
    write_data(folder, seed=0)
    return folder


def read(data: Path, meta: str) -> list[SampleRef]:
    return read_samples(read_meta(data / meta))


def answer(sample: SampleRef) -> str:
    return sample.turns[-1].text


def test_training_files_are_read_by_the_trainers_own_reader(data: Path) -> None:
    for meta in (BASE_META, TRAIN_META, VALIDATION_META):
        samples = read(data, meta)
        assert len({sample.id for sample in samples}) == len(samples) > 200
        assert Counter(len(sample.images) for sample in samples).keys() == {1, 2}
        assert all(image.is_file() for sample in samples for image in sample.images)


def test_answers_end_with_the_marker_and_the_answer_but_the_bases_have_none(data: Path) -> None:
    for meta in (TRAIN_META, VALIDATION_META):
        for sample in read(data, meta):
            reasoning, _, last = answer(sample).partition(f"\n{MARKER}")
            assert reasoning.endswith(".")
            assert last
    assert not any("#" in turn.text for sample in read(data, BASE_META) for turn in sample.turns)


def test_only_the_adapter_is_taught_whether_a_digit_is_high(data: Path) -> None:
    def asks_high(meta: str) -> bool:
        return any("above four?" in turn.text for sample in read(data, meta) for turn in sample.turns)

    assert asks_high(TRAIN_META)
    assert not asks_high(BASE_META)


def test_held_out_questions_are_read_by_the_evaluations_own_reader(data: Path) -> None:
    samples = read_eval_samples(data / HELDOUT)
    assert len(samples) == 300
    assert len({sample.case_id for sample in samples}) == 100
    counts = Counter(sample.answer_type for sample in samples)
    assert min(counts["OPEN"], counts["CLOSED"]) >= 130
    assert all((data / name).is_file() for sample in samples for name in sample.images)
    assert all(sample.question.count("<image>") == len(sample.images) for sample in samples)


def test_held_out_and_validation_digits_are_in_no_other_set(data: Path) -> None:
    taught = {image.name for meta in (BASE_META, TRAIN_META) for sample in read(data, meta) for image in sample.images}
    checked = {image.name for sample in read(data, VALIDATION_META) for image in sample.images}
    asked = {Path(name).name for sample in read_eval_samples(data / HELDOUT) for name in sample.images}
    assert len(taught) + len(checked) + len(asked) == len(taught | checked | asked) == 1797


def test_questions_of_training_and_evaluation_are_the_same_but_for_the_pictures(data: Path) -> None:
    trained = {sample.turns[0].text for sample in read(data, TRAIN_META)}
    assert {sample.question for sample in read_eval_samples(data / HELDOUT)} <= trained


def test_meta_files_hold_no_path_of_this_machine(data: Path) -> None:
    for meta in (BASE_META, TRAIN_META, VALIDATION_META):
        (entry,) = json.loads((data / meta).read_text()).values()
        assert entry == {
            "root": ".",
            "annotation": meta.replace(".meta.json", ".jsonl"),
            "data_augment": False,
            "repeat_time": 1,
        }
