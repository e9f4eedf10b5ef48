"""A sound Run over a handful of real files, which each test breaks in one way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tandem.check import Report, check_run
from tandem.inputs import Resolver
from tandem.spec import load_run

ENDPOINT = {"baseUrl": "http://127.0.0.1:9/v1", "model": "served"}
JUDGE = {"kind": "openai", "baseUrl": "https://judge.example", "model": "judge-1"}


@pytest.fixture(scope="session")
def sound_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tandem.model.tiny import make_tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(folder, seed=0)
    return folder


def draw(path: Path, shade: int, size: tuple[int, int] = (60, 40)) -> None:
    """An image whose content depends on the shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.radial_gradient("L").resize(size).point(lambda value: (value + 13 * shade) % 256).convert("RGB").save(path)


@dataclass
class Trial:
    """A folder with a Run file, a model, a training set and an evaluation; change it, then check it."""

    folder: Path
    spec: dict[str, Any]
    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def own_model(self) -> Path:
        """The model as a copy that a test may break."""
        if self.model.is_symlink():
            source = self.model.resolve()
            self.model.unlink()
            shutil.copytree(source, self.model)
        return self.model

    def check(self, *, gpu_memory: int | None = None, gpus: int = 0, store: str | None = None) -> Report:
        write_lines(self.folder / "train.jsonl", self.training)
        (self.folder / "eval.json").write_text(json.dumps(self.held_out))
        run = {
            "apiVersion": "tandem.dev/v1alpha1",
            "kind": "Run",
            "metadata": {"name": "trial"},
            "spec": self.spec,
        }
        (self.folder / "run.yaml").write_text(yaml.safe_dump(run))
        return check_run(
            load_run(self.folder / "run.yaml"),
            sources=Resolver(folder=self.folder, cache=self.folder / "cache"),
            store_url=store,
            environment=self.environment,
            gpu_memory=gpu_memory,
            gpus=gpus,
            cpu_count=2,
        )


def write_lines(path: Path, samples: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def sample(number: int, image: str | list[str] | None = None, answer: str = "Yes", **more: Any) -> dict[str, Any]:
    images = [image] if isinstance(image, str) else image or []
    question = "<image>\n" * len(images) + "Is it round?"
    turns = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": f"It has no corner.\n### The final answer is: {answer}"},
    ]
    return {"id": number, "image": images, "conversations": turns, **more}


def question(number: int, *images: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "img_name": list(images),
        "question": "<image>\n" * len(images) + "Is it round?",
        "answer": "Yes",
        "answer_type": "CLOSED",
        **more,
    }


@pytest.fixture
def trial(tmp_path: Path, sound_model: Path) -> Trial:
    for number in range(4):
        draw(tmp_path / f"images/train-{number}.jpeg", number)
    for number in range(2):
        draw(tmp_path / f"images/held-{number}.png", 10 + number)
    entry = {"root": "images", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
    (tmp_path / "meta.json").write_text(json.dumps({"trial": entry}))
    (tmp_path / "model").symlink_to(sound_model)
    return Trial(
        folder=tmp_path,
        spec={
            "model": {"source": "model"},
            "train": {
                "meta": "meta.json",
                "tiles": {"max": 2},
                "maxLength": 256,
                "batch": {"globalSize": 2},
                "steps": 6,
                "precision": "float32",
            },
            "evals": [{"name": "held-out", "data": "eval.json", "images": "images", "batchTokens": 256}],
        },
        training=[sample(number, f"train-{number}.jpeg", case_id=f"case-{number}") for number in range(4)],
        held_out=[question(number, f"held-{number}.png", case_id=f"other-{number}") for number in range(2)],
    )
