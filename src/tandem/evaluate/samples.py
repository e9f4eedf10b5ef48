"""Read an evaluation file: a JSON list, or JSON lines, in the original project's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tandem.errors import BadData, Fault
from tandem.evaluate.records import AnswerType, EvalSample, FaultList, duplicate_id

LARGEST_FILE = 256 * 2**20
"""Bytes of an evaluation file: some hundred thousand questions. All of it is in memory, several times."""

_KEYS_OF_OTHERS = ("image", "images", "img", "img_names", "image_name", "image_path")
"""Where other formats name images: a question with one of these instead would be asked without its images."""

_ANSWER_TYPES: dict[str, AnswerType] = {"OPEN": "OPEN", "CLOSED": "CLOSED"}


def read_eval_samples(path: Path) -> list[EvalSample]:
    """Read the samples of an evaluation file, in its order.

    Each is an object {id, img_name, question, reasoning, answer, answer_type, case_id}: id a string or an
    integer, unique; img_name one name or a list, relative to the image folder, absent for a question
    without images; reasoning and case_id optional; answer_type OPEN or CLOSED as given (never guessed from
    the answer). Other keys are ignored. Raises BadData with all faults at once, each with index or line.
    """
    return parse_eval_samples(read_eval_file(path), where=str(path))


def read_eval_file(path: Path) -> bytes:
    """The bytes of an evaluation file. Raises BadData if it cannot be read or has more than LARGEST_FILE of them."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadData(
            Fault(
                where=str(path),
                what=f"cannot be read: {error.strerror or error}",
                remedy="Give the evaluation file's path",
            )
        ) from None
    if len(body) > LARGEST_FILE:
        what = f"has more than {LARGEST_FILE} bytes"
        raise BadData(Fault(where=str(path), what=what, remedy="Split it into several evaluations"))
    return body


def parse_eval_samples(body: bytes, *, where: str) -> list[EvalSample]:
    """Read samples from an evaluation file's bytes; `where` names it in messages. See read_eval_samples."""
    faults = FaultList()
    samples: list[EvalSample] = []
    first_use: dict[str, str] = {}
    for place, value in _objects(body, where, faults):
        sample = _sample(place, value, faults)
        if sample is None:
            continue
        if sample.sample_id in first_use:
            first = first_use[sample.sample_id].removeprefix(f"{where} ")
            faults.append(duplicate_id(place, sample.sample_id, first))
        else:
            first_use[sample.sample_id] = place
            samples.append(sample)
    if not samples and not faults.count:
        faults.append(Fault(where=where, what="there is no sample in it", remedy="Add at least one"))
    faults.raise_any(where=where)
    return samples


def _objects(body: bytes, where: str, faults: FaultList) -> Iterator[tuple[str, Any]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(Fault(where=f"{where} byte {error.start}", what="not UTF-8", remedy="Save the file as UTF-8"))
        return
    if text.lstrip().startswith("["):
        listed = _json(text, where, faults)
        if listed is not None:
            yield from ((f"{where} index {index}", value) for index, value in enumerate(listed))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{where} line {number}"
            value = _json(line, place, faults)
            if value is not None:
                yield place, value


def _json(text: str, place: str, faults: FaultList) -> Any:
    """The parsed value; None, with a fault added, if it is not JSON (or null, which is no sample either)."""
    try:
        value = json.loads(text)
        what = "null is no sample"
    except json.JSONDecodeError as error:
        value, what = None, f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except (RecursionError, ValueError):  # nested too deeply; an integer of thousands of digits
        value, what = None, "not JSON that can be read: nested too deeply, or a number too long"
    if value is None:
        remedy = "Write a JSON list of samples, or one JSON object a line"
        faults.append(Fault(where=place, what=what, remedy=remedy))
    return value


@dataclass(frozen=True)
class _Fields:
    """The fields of one object, read one by one; what is wrong is added to the faults."""

    place: str
    values: dict[str, Any]
    faults: list[Fault] = field(default_factory=list)

    def refuse(self, key: str, what: str, remedy: str) -> None:
        self.faults.append(Fault(where=f"{self.place}, {key}", what=what, remedy=remedy))

    def text(self, key: str, *, required: bool) -> str | None:
        value = self.values.get(key)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value.strip():
            what = "missing" if value is None else f"expected a text that is not blank, found {_shown(value)}"
            self.refuse(key, what, f"Give the sample its {key}")
            return None
        if not _encodable(value):
            self.refuse(key, "half a surrogate pair, which is no text", "Write the file again as UTF-8")
            return None
        return value

    def identifier(self, key: str, *, required: bool) -> str | None:
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(key, required=required)

    def images(self) -> tuple[str, ...]:
        given = self.values.get("img_name")
        foreign = next((key for key in _KEYS_OF_OTHERS if self.values.get(key)), None) if not given else None
        if foreign is not None:
            self.refuse("img_name", f"missing, but there is {foreign!r}", "Rename that key to img_name")
        names = [] if given is None else [given] if isinstance(given, str) else given
        if not isinstance(names, list):
            self.refuse("img_name", f"expected a name or a list, found {_shown(given)}", "Name the images")
            return ()
        for name in names:
            if problem := _image_problem(name):
                self.refuse("img_name", problem, "Name each image relative to the image folder")
        return tuple(name for name in names if isinstance(name, str))

    def answer_type(self) -> AnswerType | None:
        value = self.values.get("answer_type")
        known = _ANSWER_TYPES.get(value.strip().upper()) if isinstance(value, str) else None
        if known is None:
            what = "missing" if value is None else f"expected OPEN or CLOSED, found {_shown(value)}"
            self.refuse("answer_type", what, "Write OPEN or CLOSED: it is not guessed from the answer")
        return known


def _sample(place: str, value: Any, faults: FaultList) -> EvalSample | None:
    if not isinstance(value, dict):
        remedy = "Write {id, img_name, question, answer, answer_type}"
        faults.append(Fault(where=place, what=f"expected an object, found {_shown(value)}", remedy=remedy))
        return None
    fields = _Fields(place, value)
    sample_id = fields.identifier("id", required=True)
    case_id = fields.identifier("case_id", required=False)
    question = fields.text("question", required=True)
    images = fields.images()
    answer = fields.text("answer", required=True)
    reasoning = fields.text("reasoning", required=False)
    answer_type = fields.answer_type()
    faults.extend(fields.faults)
    if fields.faults or sample_id is None or question is None or answer is None or answer_type is None:
        return None
    return EvalSample(
        sample_id=sample_id,
        case_id=case_id,
        question=question,
        images=images,
        reference_answer=answer,
        reference_reasoning=reasoning,
        answer_type=answer_type,
    )


def _image_problem(name: object) -> str | None:
    if not isinstance(name, str) or not name.strip() or "\0" in name or not _encodable(name):
        return f"expected a file name, found {_shown(name)}"
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return f"{_shown(name)} leaves the image folder"
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
