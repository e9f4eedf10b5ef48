"""The training data's meta file, read as InternVL's trainer reads it: which annotation files, and how often.

Rules of OpenGVLab/InternVL 2410d1d (`internvl_chat/internvl/train/internvl_chat_finetune.py`), but relative
paths start at the meta file's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tandem.errors import BadData, Fault

LARGEST_META = 16 * 2**20
"""Bytes of a meta file, which has some hundred for each of its data sets."""
MOST_TILES = 128
"""As in the Run file."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry of the meta file, its paths absolute."""

    name: str
    root: Path
    """The folder that the samples' image paths start at."""
    annotation: Path
    augment: bool
    """Whether each tile is degraded by JPEG compression of a random quality."""
    repeat: int | float
    """Below 1: only the first int(lines * repeat) lines; above 1: a whole number of times."""
    max_tiles: int | None
    """Overrides the Run's tiles per sample; None keeps them."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """A meta file: its datasets in the file's order."""

    path: Path
    datasets: tuple[Dataset, ...]


class _DatasetEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    root: str
    annotation: str
    data_augment: bool
    repeat_time: int | float = Field(ge=0)
    max_dynamic_patch: int | None = Field(default=None, ge=1, le=MOST_TILES)
    length: Any = None
    """Stands in the original's own meta files, where nothing reads it either."""

    @field_validator("repeat_time")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if not math.isfinite(value) or (value > 1 and not isinstance(value, int)):
            raise ValueError("above 1 it must be written as a whole number, such as 2")
        return value

    @field_validator("annotation")
    @classmethod
    def _json_lines(cls, value: str) -> str:
        if not value.endswith("jsonl"):
            raise ValueError("must be a .jsonl file, one JSON object a line")
        return value

    @field_validator("root", "annotation")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("must be a path: training reads its data from files")
        return value


def read_meta(path: Path) -> Meta:
    """Read a meta file and check that its folders and annotation files exist.

    Raises BadData with every fault of the file.
    """
    path = path.absolute()
    try:
        entries = json.loads(_read_whole(path), object_pairs_hook=_distinct)
    except OSError as error:
        raise BadData(
            Fault(where=str(path), what=describe_failure(error), remedy="Correct the meta file's path.")
        ) from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise BadData(Fault(where=where, what=f"not valid JSON: {error.msg}", remedy="Correct this line.")) from error
    except (UnicodeDecodeError, _Refused) as error:
        raise BadData(Fault(where=str(path), what=str(error), remedy="Correct the file.")) from error
    except (RecursionError, ValueError):  # an integer of thousands of digits
        what = "not JSON that can be read: nested too deeply, or a number too long"
        raise BadData(Fault(where=str(path), what=what, remedy="Correct the file.")) from None
    if not isinstance(entries, dict) or not entries:
        raise BadData(
            Fault(
                where=str(path),
                what="the meta file names no dataset",
                remedy='Write {"name": {"root": ..., "annotation": ..., "data_augment": false, "repeat_time": 1}}.',
            )
        )
    faults: list[Fault] = []
    datasets: list[Dataset] = []
    for name, entry in entries.items():
        try:
            dataset = _resolve(name, _DatasetEntry.model_validate(entry), path.parent)
        except ValidationError as error:
            faults += list_faults(error, f"{path}: {name}")
        else:
            faults += _missing_files(dataset, f"{path}: {name}")
            datasets.append(dataset)
    if faults:
        raise BadData(faults)
    return Meta(path=path, datasets=tuple(datasets))


class _Refused(ValueError):
    """The file is JSON, perhaps, but not as a meta file should be."""


def _read_whole(path: Path) -> bytes:
    with path.open("rb") as file:
        body = file.read(LARGEST_META + 1)
    if len(body) > LARGEST_META:
        raise _Refused(f"the meta file has more than {LARGEST_META} bytes: samples belong into its annotation files")
    return body


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            # JSON keeps the last of two equal keys; here the first would be lost in silence.
            raise _Refused(f"the key {key!r} stands twice in one object")
        seen[key] = value
    return seen


def _resolve(name: str, entry: _DatasetEntry, base: Path) -> Dataset:
    return Dataset(
        name=name,
        root=base / entry.root,
        annotation=base / entry.annotation,
        augment=entry.data_augment,
        repeat=entry.repeat_time,
        max_tiles=entry.max_dynamic_patch,
    )


def _missing_files(dataset: Dataset, where: str) -> Iterator[Fault]:
    remedy = "Relative paths start at the meta file's folder."
    if not _holds(dataset.root.is_dir):
        yield Fault(where=where, what=f"root {dataset.root} is not a folder", remedy=remedy)
    if not _holds(dataset.annotation.is_file):
        yield Fault(where=where, what=f"annotation {dataset.annotation} is not a file", remedy=remedy)


def _holds(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError:  # a name that the file system does not allow
        return False


def describe_failure(error: OSError) -> str:
    """Why a file could not be read."""
    return f"cannot be read ({error.strerror or error})"


def list_faults(error: ValidationError, where: str) -> list[Fault]:
    """A fault for each value that is not as it should be; where is the line or the entry."""
    return [
        Fault(
            where=where,
            what=f"{'.'.join(map(str, found['loc'])) or 'the line'}: {found['msg']}",
            remedy="Remove this key." if found["type"] == "extra_forbidden" else "Correct this value.",
        )
        for found in error.errors(include_url=False, include_input=False)
    ]
