import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import tandem.demo.prepare as prepare_module
from tandem.demo.base import BaseRecipe
from tandem.demo.prepare import STAMP, prepare_demo
from tandem.errors import BadConfiguration
from tandem.model.loading import read_model_info

SMALL = BaseRecipe(text_size=32, vision_size=16, layers=1, steps=2, batch=2)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "demo"
    prepare_demo(folder, seed=0, recipe=SMALL)
    return folder


def test_makes_data_and_base_and_leaves_nothing_else(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {"base", "data", STAMP}
    assert [path.name for path in made.parent.iterdir()] == ["demo"]
    assert read_model_info(made / "base").tile_size == 56
    assert {path.name for path in (made / "data").iterdir()} == {
        "base.jsonl",
        "base.meta.json",
        "heldout.json",
        "images",
        "train.jsonl",
        "train.meta.json",
        "validation.jsonl",
        "validation.meta.json",
    }


def test_what_is_complete_is_used_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_others: Any) -> float:
        raise AssertionError("trained again")

    monkeypatch.setattr(prepare_module, "train_base", fail)
    said: list[str] = []
    prepare_demo(made, seed=0, recipe=SMALL, report=said.append)
    assert said == [f"{made} is complete: nothing to do"]


def test_the_same_seed_gives_the_same_bytes_at_another_place(made: Path, tmp_path: Path) -> None:
    prepare_demo(tmp_path / "deep" / "again", seed=0, recipe=SMALL)
    assert digests(tmp_path / "deep" / "again") == digests(made)


def test_another_seed_replaces_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare_demo(folder, seed=0, recipe=SMALL)
    before = digests(folder)
    (folder / "left-over").touch()
    said: list[str] = []
    prepare_demo(folder, seed=1, recipe=SMALL, report=said.append)
    after = digests(folder)
    assert after["data/heldout.json"] != before["data/heldout.json"]
    assert json.loads((folder / STAMP).read_text())["seed"] == 1
    assert not (folder / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert said[-1].startswith("step 2 of 2, loss ")


def test_an_interrupted_preparation_leaves_what_was_there_before(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_others: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "train_base", fail)
    before = digests(made)
    for folder in (made, tmp_path / "demo"):
        with pytest.raises(KeyboardInterrupt):
            prepare_demo(folder, seed=7, recipe=SMALL)
    assert digests(made) == before
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in made.parent.iterdir()] == ["demo"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadConfiguration, match="holds something that is not the demo's"):
        prepare_demo(tmp_path, seed=0, recipe=SMALL)
    with pytest.raises(BadConfiguration):
        prepare_demo(tmp_path / "thesis.txt", seed=0, recipe=SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "write_data", lambda folder, *, seed: None)
    monkeypatch.setattr(prepare_module, "read_meta", lambda path: None)
    monkeypatch.setattr(prepare_module, "read_samples", lambda meta: [])
    monkeypatch.setattr(prepare_module, "train_base", lambda *args, **others: 0.0)
    prepare_demo(tmp_path, seed=0, recipe=SMALL)
    assert (tmp_path / STAMP).is_file()
