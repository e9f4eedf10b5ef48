import hashlib
import json
import shutil
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


def test_another_seed_replaces_data_and_base_and_leaves_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    prepare_demo(folder, seed=0, recipe=SMALL)
    before = digests(folder)
    (folder / "store").mkdir()
    (folder / "store" / "results").write_text("mine")
    (folder / "data" / "left-over").touch()
    said: list[str] = []
    prepare_demo(folder, seed=1, recipe=SMALL, report=said.append)
    after = digests(folder)
    assert after["data/heldout.json"] != before["data/heldout.json"]
    assert json.loads((folder / STAMP).read_text())["seed"] == 1
    assert not (folder / "data" / "left-over").exists()
    assert (folder / "store" / "results").read_text() == "mine"
    assert {path.name for path in folder.iterdir()} == {"base", "data", "store", STAMP}
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
    assert list((tmp_path / "demo").iterdir()) == []
    assert {path.name for path in made.iterdir()} == {"base", "data", STAMP}


def test_an_exchange_that_broke_off_is_made_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(made, folder)
    renaming = Path.rename

    def break_off(self: Path, target: Path) -> Path:
        if target == folder / "base":
            raise KeyboardInterrupt
        return renaming(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", break_off)
        with pytest.raises(KeyboardInterrupt):
            prepare_demo(folder, seed=7, recipe=SMALL)
    prepare_demo(folder, seed=0, recipe=SMALL)
    assert digests(folder) == digests(made)


@pytest.mark.parametrize("name", ["data", "base"])
def test_data_and_models_that_are_not_the_demos_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(BadConfiguration, match=f"/{name}: was not made by the demo"):
        prepare_demo(tmp_path, seed=0, recipe=SMALL)
    assert (tmp_path / name / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadConfiguration, match=r"thesis\.txt: was not made by the demo"):
        prepare_demo(tmp_path / "thesis.txt", seed=0, recipe=SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
