"""The JSON lines that a meta file names, one sample each, read as InternVL's trainer reads them.

Rules of OpenGVLab/InternVL 2410d1d (`internvl_chat/internvl/train/internvl_chat_finetune.py`), but what that trainer
replaces in silence is a fault with its line.
"""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault
from tandem.model.prompt import INTERNVL2_5, Role, Template, Turn, place_images, turn_faults
from tandem.train.meta import Dataset, Meta, describe_failure, list_faults

MAX_FAULTS = 100
"""After this many faults reading stops: the rest is most likely of the same kind."""
LONGEST_LINE = 16 * 2**20
"""Bytes of one sample's line; the longest sequence of any model is far shorter."""
MOST_SAMPLES = 50_000_000
"""Of one data set, repeated ones counted each time: what one machine can hold; the original trained on 16 million."""


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
        raise BadData(Fault(where=where, what=describe_failure(error), remedy="Make the file readable.")) from error


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
        return bad(list_faults(error, place))
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
