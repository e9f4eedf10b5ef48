from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tandem.model.card import CardBase
from tandem.model.tiny import make_tiny_model
from tandem.spec import TrainSpec
from tandem.train.job import RankJob
from tests.train.small import SETTINGS, MakeJob, Settings, merge, write_data


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-model")
    make_tiny_model(folder, seed=5)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, samples=14)
    return folder


@pytest.fixture
def make_job(tiny_model: Path, data: Path, tmp_path: Path) -> MakeJob:
    """build_job with this test's folders."""
    return partial(build_job, tiny_model=tiny_model, data=data, folder=tmp_path)


def build_job(
    changes: Settings | None = None,
    *,
    tiny_model: Path,
    data: Path,
    folder: Path,
    name: str = "one",
    store: bool = False,
    **fields: Any,
) -> RankJob:
    """A job in folder; `changes` are merged into its train section, keyword arguments are the job's own fields."""
    train = TrainSpec.model_validate(merge(SETTINGS, changes or {}))
    given: dict[str, Any] = {
        "train": train,
        "seed": 3,
        "model_folder": tiny_model,
        "meta": data / "meta.json",
        "validation_meta": data / "val.json" if train.validation is not None else None,
        "work": folder / name,
        "store_url": (folder / "store").as_uri() if store else None,
        "execution": f"runs/local/r/train/executions/{name}",
        "checkpoints_from": "runs/local/r/train/executions/",
        "outcomes": folder / name / "outcomes",
        "base": CardBase(source="tiny", digest="sha256:" + "0" * 64),
    }
    return RankJob(**(given | fields))
