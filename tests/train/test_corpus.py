from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadData
from tandem.model.loading import load_tokenizer
from tandem.model.tiles import TileGeometry
from tandem.train import corpus as corpus_room
from tandem.train.corpus import Corpus, Tolerance, read_corpus
from tandem.train.samples import Example, ReadingRules, build_example
from tests.train.small import write_data

RULES = ReadingRules(max_tiles=2, max_length=160, geometry=TileGeometry(tile_size=56))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path, samples=9)
    return tmp_path


def read(folder: Path, tokenizer: Any, **how: Any) -> Corpus:
    settings: dict[str, Any] = {"rules": RULES, "tolerance": Tolerance(), **how}
    return read_corpus(folder / "meta.json", tokenizer, **settings)


def test_lengths_are_those_of_the_examples(folder: Path, tokenizer: Any) -> None:
    import random

    corpus = read(folder, tokenizer)
    assert len(corpus.samples) == 9
    for sample, length in zip(corpus.samples, corpus.lengths, strict=True):
        example = build_example(sample, tokenizer, rules=RULES, rng=random.Random(0))  # noqa: S311
        assert isinstance(example, Example)
        assert len(example.input_ids) == length.tokens
        assert sum(label != -100 for label in example.labels) == length.labelled


def test_the_limit_keeps_the_first_samples(folder: Path, tokenizer: Any) -> None:
    assert [sample.line for sample in read(folder, tokenizer, limit=3).samples] == [1, 2, 3]


def test_a_truncated_image_is_named_with_file_and_line(folder: Path, tokenizer: Any) -> None:
    image = folder / "images" / "4-0.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(BadData, match=r"train\.jsonl:5: .*4-0\.png"):
        read(folder, tokenizer)


def test_as_many_bad_samples_as_allowed_are_left_out_and_named(folder: Path, tokenizer: Any) -> None:
    (folder / "images" / "4-0.png").unlink()
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([*lines[:7], "{", *lines[8:]]) + "\n")
    corpus = read(folder, tokenizer, tolerance=Tolerance(bad=2))
    assert [sample.line for sample in corpus.samples] == [1, 2, 3, 4, 6, 7, 9]
    assert {faults[0].where.split("train.jsonl:")[1][0] for faults in corpus.bad} == {"5", "8"}
    with pytest.raises(BadData) as caught:
        read(folder, tokenizer, tolerance=Tolerance(bad=1))
    assert len(caught.value.faults) == 2


def test_samples_over_the_length_are_left_out_or_refused_by_name(folder: Path, tokenizer: Any) -> None:
    whole = read(folder, tokenizer)
    longest = max(length.tokens for length in whole.lengths)
    over = [
        sample.place for sample, length in zip(whole.samples, whole.lengths, strict=True) if length.tokens == longest
    ]
    rules = replace(RULES, max_length=longest - 1)
    corpus = read(folder, tokenizer, rules=rules, tolerance=Tolerance(too_long=len(over)))
    assert [fault.where for fault in corpus.too_long] == over
    assert len(corpus.samples) == 9 - len(over)
    with pytest.raises(BadData, match=f"{longest} tokens, .* are more than {longest - 1}"):
        read(folder, tokenizer, rules=rules)


def test_more_faults_than_are_listed_are_counted(folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_room, "MAX_FAULTS", 3)
    (folder / "train.jsonl").write_text("{\n" * 8)
    with pytest.raises(BadData, match="5 more faults like these") as caught:
        read(folder, tokenizer)
    assert len(caught.value.faults) == 4


def test_a_set_of_which_nothing_is_left_is_refused(folder: Path, tokenizer: Any) -> None:
    with pytest.raises(BadData, match="no sample is left"):
        read(folder, tokenizer, rules=replace(RULES, max_length=5), tolerance=Tolerance(too_long=9))


def test_a_repeated_dataset_is_measured_once_and_used_again(folder: Path, tokenizer: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta["colours"]["repeat_time"] = 2
    (folder / "meta.json").write_text(json.dumps(meta))
    corpus = read(folder, tokenizer)
    assert [sample.line for sample in corpus.samples] == [*range(1, 10), *range(1, 10)]


def test_the_digest_tells_changed_data_from_data_at_another_place(
    folder: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_data(elsewhere, samples=9)
    assert read(elsewhere, tokenizer).digest == read(folder, tokenizer).digest
    assert read(folder, tokenizer, limit=8).digest != read(folder, tokenizer).digest
