import hashlib
import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tandem.demo import base
from tandem.demo.base import BaseRecipe, _draw_batches, _shift, train_base
from tandem.errors import BadData
from tandem.model.images import open_image
from tandem.model.loading import load_base, load_tokenizer

SMALL = BaseRecipe(text_size=32, vision_size=16, layers=1, steps=12, batch=4)


def write_samples(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    lines = []
    for number, text in enumerate(texts):
        Image.new("L", (56, 56), color=40 * number % 256).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": text}]
        lines.append(json.dumps({"image": f"{number}.png", "conversations": turns}))
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    meta = {"a": {"root": ".", "annotation": "a.jsonl", "data_augment": False, "repeat_time": 1}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "data", [f"The image shows {number}." for number in range(6)])


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_whatever_the_process_did_before(meta: Path, tmp_path: Path) -> None:
    train_base(meta, tmp_path / "one", seed=3, recipe=SMALL)
    torch.rand(7)
    train_base(meta, tmp_path / "two", seed=3, recipe=SMALL)
    train_base(meta, tmp_path / "other", seed=4, recipe=SMALL)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one")["model.safetensors"] != digest(tmp_path / "other")["model.safetensors"]


def test_learns_and_reports_every_step(meta: Path, tmp_path: Path) -> None:
    seen: dict[int, float] = {}
    record: Callable[[int, float], None] = seen.__setitem__
    last = train_base(meta, tmp_path / "base", seed=0, recipe=SMALL, report=record)
    assert list(seen) == list(range(1, 13))
    assert last == pytest.approx(sum(list(seen.values())[-10:]) / 10)
    assert seen[12] < 0.8 * seen[1]


def test_the_trained_base_loads_like_any_checkpoint_and_all_of_it_has_learnt(meta: Path, tmp_path: Path) -> None:
    from tandem.model.tiny import make_tiny_model

    train_base(meta, tmp_path / "base", seed=0, recipe=SMALL)
    trained = load_base(tmp_path / "base", precision="float32", device="cpu").state_dict()
    make_tiny_model(tmp_path / "start", seed=0, text_size=32, vision_size=16, layers=1, std=SMALL.std)
    start = load_base(tmp_path / "start", precision="float32", device="cpu").state_dict()
    for part in ("vision_tower.encoder.layer.0.attention.q_proj", "multi_modal_projector.linear_1"):
        name = f"model.{part}.weight"
        assert not torch.equal(trained[name], start[name])


def test_words_of_the_corpus_are_known_to_the_tokenizer(meta: Path, tmp_path: Path) -> None:
    train_base(meta, tmp_path / "base", seed=0, corpus=["larger larger"], recipe=SMALL)
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.tokenize(" larger") == ["Ġlarger"]


def test_a_picture_is_opened_once_however_many_questions_are_asked_about_it(
    meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotation = meta.parent / "a.jsonl"
    annotation.write_text(annotation.read_text().replace("Which?", "What else?") + annotation.read_text())
    opened: Counter[Path] = Counter()

    def open_counted(path: Path, **options: Any) -> Image.Image:
        opened[path] += 1
        return open_image(path, **options)

    monkeypatch.setattr(base, "open_image", open_counted)
    train_base(meta, tmp_path / "base", seed=0, recipe=SMALL)
    assert sorted(opened) == sorted(meta.parent.glob("*.png"))
    assert set(opened.values()) == {1}


def test_a_sample_too_long_for_the_demo_is_named(tmp_path: Path) -> None:
    meta = write_samples(tmp_path / "data", ["7 " * 300])
    with pytest.raises(BadData, match=r"a\.jsonl:1: the sample has \d+ tokens"):
        train_base(meta, tmp_path / "base", seed=0, recipe=SMALL)


def test_leaves_the_number_of_torchs_threads_as_it_was(meta: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train_base(meta, tmp_path / "base", seed=0, recipe=SMALL)
    assert torch.get_num_threads() == before


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 3))
def test_batches_are_full_and_use_every_sample_before_any_again(samples: int, size: int, seed: int) -> None:
    batches = list(_draw_batches(samples, size, 8, seed=seed))
    assert [len(batch) for batch in batches] == [size] * 8
    drawn = Counter(islice((index for batch in batches for index in batch), 8 * size // samples * samples))
    assert len(set(drawn.values())) <= 1


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 3))
def test_a_shift_moves_each_tile_as_a_whole(most: int, seed: int) -> None:
    tiles = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16)
    moved = _shift(tiles, most, torch.Generator().manual_seed(seed))
    for tile, shifted in zip(tiles, moved, strict=True):
        offsets = [(down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)]
        assert any(torch.equal(tile.roll(offset, dims=(1, 2)), shifted) for offset in offsets)
