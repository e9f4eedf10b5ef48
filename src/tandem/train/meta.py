"""The training data's meta file and the JSON lines it names, read as InternVL's trainer reads them.

Rules of OpenGVLab/InternVL 2410d1d (`internvl_chat/internvl/train/internvl_chat_finetune.py`), but for two things:
relative paths start at the meta file's folder, and what that trainer replaces in silence is a fault with its line.
"""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tandem.errors import BadData, Fault
from tandem.model.prompt import INTERNVL2_5, Role, Template, Turn, place_images, turn_faults

MAX_FAULTS = 100
"""After this many faults reading stops: the rest is most likely of the same kind."""
LARGEST_META = 16 * 2**20
"""Bytes of a meta file, which has some hundred for each of its data sets."""
LONGEST_LINE = 16 * 2**20
"""Bytes of one sample's line; the longest sequence of any model is far shorter."""
MOST_TILES = 128
"""As in the Run file."""
MOST_SAMPLES = 50_000_000
"""Of one data set, repeated ones counted each time: what one machine can hold; the original trained on 16 million."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRef:
    """One checked sample, its images named but not opened."""

    dataset: str
    file: Path
    line: int
    id: str | None
    case_id: str | None = None
    """Whom or what the sample is about; not read by training, but no evaluation may ask about the same."""
    images: tuple[Path, ...]
    """Absolute, in the order of their placeholders."""
    turns: tuple[Turn, ...]
    """With one placeholder for each image."""
    max_tiles: int | None
    augment: bool

    @property
    def place(self) -> str:
        """File and line, as faults name them."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSample:
    """One line that cannot be used, and everything that is wrong with it."""

    dataset: str
    file: Path
    line: int
    faults: tuple[Fault, ...]


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


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    sender: Literal["system", "human", "gpt"] = Field(alias="from")
    value: str


class _SampleLine(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    conversations: list[_Message] = Field(min_length=1)
    image: str | list[str] | None = None
    video: Any = None
    images: Any = None
    """Other trainers' key: such a sample would be read as one without images."""
    id: str | int | float | None = None
    case_id: Any = None


_ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}


def read_meta(path: Path) -> Meta:
    """Read a meta file and check that its folders and annotation files exist.

    Raises BadData with every fault of the file.
    """
    path = path.absolute()
    try:
        entries = json.loads(_read_whole(path), object_pairs_hook=_distinct)
    except OSError as error:
        raise BadData(Fault(where=str(path), what=_reason(error), remedy="Correct the meta file's path.")) from error
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
            faults += _pydantic_faults(error, f"{path}: {name}")
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


def read_samples(
    meta: Meta,
    *,
    template: Template = INTERNVL2_5,
    limit: int | None = None,
    allowed_bad: int = 0,
    max_faults: int = MAX_FAULTS,
) -> list[SampleRef]:
    """Read every sample that the meta file asks for, repeated ones again and again, or the first `limit` lines.

    Raises BadData with all faults, each with file and line, if more than `allowed_bad` lines cannot be used; it gives
    up after `max_faults` of them.
    """
    samples: list[SampleRef] = []
    faults: list[Fault] = []
    bad = 0
    for sample in islice(scan_samples(meta, template=template), limit):
        if isinstance(sample, SampleRef):
            samples.append(sample)
            continue
        faults += sample.faults
        bad += 1
        if bad > allowed_bad and len(faults) >= max_faults:
            what = f"reading stopped here after {len(faults)} faults"
            where = f"{sample.file}:{sample.line}"
            faults.append(Fault(where=where, what=what, remedy="Correct these first; there may be more."))
            break
    if bad > allowed_bad:
        raise BadData(faults)
    return samples


def scan_samples(meta: Meta, *, template: Template = INTERNVL2_5) -> Iterator[SampleRef | BadSample]:
    """Yield the samples in the original's order, dataset by dataset, as they are read.

    A line that cannot be used comes once, as BadSample, however often its dataset is repeated. Raises BadData for a
    dataset of more than MOST_SAMPLES samples.
    """
    for dataset in meta.datasets:
        good: list[SampleRef] = []
        for sample in _scan_once(dataset, template):
            if isinstance(sample, SampleRef):
                good.append(sample)
            yield sample
        times = math.ceil(dataset.repeat)
        if times * len(good) > MOST_SAMPLES:
            what = f"its {len(good)} samples {times} times are more than the {MOST_SAMPLES} that can be held"
            where = f"{meta.path}: {dataset.name}"
            raise BadData(Fault(where=where, what=what, remedy="Lower repeat_time."))
        for _ in range(1, times):
            yield from good


def _scan_once(dataset: Dataset, template: Template) -> Iterator[SampleRef | BadSample]:
    try:
        wanted = None if dataset.repeat >= 1 else int(_count_lines(dataset.annotation) * dataset.repeat)
        with dataset.annotation.open("rb") as lines:
            for number, line in enumerate(islice(_each_line(lines), wanted), start=1):
                yield _read_line(line, number, dataset, template)
    except OSError as error:
        where = str(dataset.annotation)
        raise BadData(Fault(where=where, what=_reason(error), remedy="Make the file readable.")) from error


def _each_line(file: BinaryIO) -> Iterator[bytes]:
    """The lines; of one that is too long only the beginning, just too long."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield line


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in _each_line(file))


def _read_line(line: bytes, number: int, dataset: Dataset, template: Template) -> SampleRef | BadSample:
    place = f"{dataset.annotation}:{number}"

    def bad(faults: list[Fault]) -> BadSample:
        return BadSample(dataset=dataset.name, file=dataset.annotation, line=number, faults=tuple(faults))

    if len(line) > LONGEST_LINE:
        what = f"the line has more than {LONGEST_LINE} bytes"
        return bad([Fault(where=place, what=what, remedy="Write one sample a line, its images as files.")])
    if not line.strip():
        return bad([Fault(where=place, what="the line is empty", remedy="Remove it.")])
    try:
        sample = _SampleLine.model_validate_json(line.removeprefix(BOM_UTF8) if number == 1 else line)
    except ValidationError as error:
        return bad(_pydantic_faults(error, place))
    names = _image_names(sample)
    turns = [Turn(role=_ROLES[message.sender], text=message.value) for message in sample.conversations]
    faults = [*_sample_faults(sample, names, place), *turn_faults(turns, len(names), template=template, place=place)]
    if faults:
        return bad(faults)
    return SampleRef(
        dataset=dataset.name,
        file=dataset.annotation,
        line=number,
        id=None if sample.id is None else str(sample.id),
        case_id=None if sample.case_id is None else str(sample.case_id),
        images=tuple(dataset.root / name for name in names),
        turns=place_images(turns, len(names), template=template, place=place),
        max_tiles=dataset.max_tiles,
        augment=dataset.augment,
    )


def _image_names(sample: _SampleLine) -> list[str]:
    if isinstance(sample.image, list):
        return sample.image
    return [sample.image] if sample.image else []


def _sample_faults(sample: _SampleLine, names: list[str], place: str) -> Iterator[Fault]:
    for name in names:
        if not name or "://" in name or "\0" in name:
            yield Fault(where=place, what=f"image {name!r} is not a path", remedy="Name a file under the root.")
    if sample.images and not names:
        remedy = "Rename the key; a list of names may stand there, too."
        yield Fault(where=place, what="the sample has 'images' but no 'image'", remedy=remedy)
    if sample.video:
        yield Fault(where=place, what="the sample has a video", remedy="Only images are supported: remove it.")
    if not any(message.sender == "gpt" for message in sample.conversations):
        yield Fault(where=place, what="there is no gpt turn, so nothing to learn", remedy="Add the answer.")


def _reason(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"


def _pydantic_faults(error: ValidationError, where: str) -> list[Fault]:
    return [
        Fault(
            where=where,
            what=f"{'.'.join(map(str, found['loc'])) or 'the line'}: {found['msg']}",
            remedy="Remove this key." if found["type"] == "extra_forbidden" else "Correct this value.",
        )
        for found in error.errors(include_url=False, include_input=False)
    ]
