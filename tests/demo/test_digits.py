import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tandem.demo.digits import PICTURE_SIZE, SPLITS, draw_digit, draw_digits
from tandem.demo.questions import Picture
from tandem.errors import BadConfiguration

Pictures = dict[str, list[Picture]]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pictures]:
    folder = tmp_path_factory.mktemp("digits")
    return folder, draw_digits(folder, seed=0)


def test_uses_each_of_the_1797_digits_once(drawn: tuple[Path, Pictures]) -> None:
    folder, pictures = drawn
    assert {split: len(found) for split, found in pictures.items()} == dict(SPLITS)
    numbers = [Path(picture.name).stem for found in pictures.values() for picture in found]
    assert sorted(numbers) == [f"{number:04}" for number in range(1797)]
    assert set(digests(folder)) == {picture.name for found in pictures.values() for picture in found}


def test_no_drawing_is_in_two_sets(drawn: tuple[Path, Pictures]) -> None:
    folder, _ = drawn
    by_bytes: dict[str, set[str]] = {}
    for name, digest in digests(folder).items():
        by_bytes.setdefault(digest, set()).add(name.split("/")[1])
    assert {len(sets) for sets in by_bytes.values()} == {1}


def test_each_set_holds_every_digit_often(drawn: tuple[Path, Pictures]) -> None:
    for split, found in drawn[1].items():
        counts = Counter(picture.digit for picture in found)
        assert min(counts[digit] for digit in range(10)) >= SPLITS[split] / 30


def test_pictures_are_named_for_what_they_show(drawn: tuple[Path, Pictures]) -> None:
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert sum(map(len, drawn[1].values())) == len(target)
    for found in drawn[1].values():
        assert all(picture.digit == target[int(Path(picture.name).stem)] for picture in found)


def test_draws_what_scikit_learn_loads(drawn: tuple[Path, Pictures]) -> None:
    from sklearn.datasets import load_digits

    images = load_digits().images
    for picture in drawn[1]["heldout"]:
        with Image.open(drawn[0] / picture.name) as image:
            assert image.tobytes() == draw_digit(images[int(Path(picture.name).stem)]).tobytes()


def test_the_seed_decides_the_split_but_not_the_drawings(drawn: tuple[Path, Pictures], tmp_path: Path) -> None:
    folder, pictures = drawn
    again = draw_digits(tmp_path / "again", seed=0)
    assert again == pictures
    assert digests(tmp_path / "again") == digests(folder)
    assert draw_digits(tmp_path / "other", seed=1)["heldout"] != pictures["heldout"]
    assert sorted(digests(tmp_path / "other").values()) == sorted(digests(folder).values())


def test_ink_is_dark_on_white_paper_and_keeps_its_place() -> None:
    levels = np.zeros((8, 8))
    levels[2, 5] = 16
    drawn = np.asarray(draw_digit(levels))
    assert drawn.shape == (PICTURE_SIZE, PICTURE_SIZE)
    assert drawn[0, 0] == 255
    scale = PICTURE_SIZE // 8
    row, column = divmod(int(drawn.argmin()), PICTURE_SIZE)
    assert (row // scale, column // scale) == (2, 5)
    assert drawn.min() < 30


def test_pictures_are_readable_image_files(drawn: tuple[Path, Pictures]) -> None:
    folder, pictures = drawn
    with Image.open(folder / pictures["heldout"][0].name) as image:
        assert image.format == "PNG"
        assert image.size == (PICTURE_SIZE, PICTURE_SIZE)


def test_says_what_to_install_when_scikit_learn_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.demo.digits.find_spec", lambda _name: None)
    with pytest.raises(BadConfiguration, match=r"scikit-learn is not installed.*tandem\[demo\]"):
        draw_digits(tmp_path / "none", seed=0)
