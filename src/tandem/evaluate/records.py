"""What flows between the stages of an evaluation: one JSON line a sample, refused if a key is unknown.

EvalSample -> (generate) -> Prediction -> (score) -> ScoreLine -> (figures) -> Result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from tandem.errors import BadData, Fault

AnswerType = Literal["OPEN", "CLOSED"]
Status = Literal["answered", "no_marker", "several_markers", "empty", "truncated"]
VerdictWord = Literal["right", "wrong", "unscored"]

MOST_FAULTS = 100
"""A file of the wrong kind has a fault in every line; this many are shown and the rest is counted."""


class Record(BaseModel):
    """Immutable, complete, without unknown keys, and without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class EvalSample(Record):
    """One question of an evaluation file, as read."""

    sample_id: str
    case_id: str | None = None
    """Samples of one case (patient, document) are not independent; None: the sample is its own case."""
    question: str
    images: tuple[str, ...]
    """Names relative to the image folder, in the order in which they are shown; may be empty."""
    reference_answer: str
    reference_reasoning: str | None = None
    answer_type: AnswerType
    """As the file says, even where the answer looks otherwise."""


class Prediction(EvalSample):
    """What the generate stage writes for one sample: the sample itself and the text it got."""

    text: str
    """All that the model generated, special tokens removed, otherwise untouched."""
    finish: Literal["stop", "length"]
    """stop: the model ended its turn. length: the token limit ended it."""
    prompt_tokens: NonNegativeInt
    """Image tokens included, padding not."""
    new_tokens: NonNegativeInt
    """Generated tokens, the end token included."""
    tiles: NonNegativeInt
    """Tiles of all images together, thumbnails included."""
    batch_halvings: NonNegativeInt = 0
    """How often what it was generated with was halved because memory had run out; in bfloat16 that can change a
    text. Texts from before this was recorded say 0."""


class Verdict(Record):
    """What a judge found about one answer."""

    verdict: VerdictWord
    reason: str | None = None
    """Why there is no verdict (unavailable, refused or unparseable, and a detail after a colon), or why it is
    wrong without having been judged (the status). None where a judge has decided."""
    reply: str | None = None
    """What a judge model said, word for word; None where none was asked or none answered."""
    served_model: str | None = None
    """The model's name as the server returned it."""
    fingerprint: str | None = None
    """The server's own fingerprint of its configuration, if it returned one."""
    cached: bool = False
    """Whether the reply came from the store's cache instead of a call."""


class Similarity(Record):
    """BERTScore F1 of one answer against its reference."""

    f1: float
    """Raw, in about [0, 1]."""
    rescaled: float | None = None
    """Against bert-score's baseline for the same model and layer; None where it ships none."""


class OriginalView(Record):
    """The sample as the original evaluation script would count it (manglu097/Chiron-o1 fde348e)."""

    reasoning: str
    answer: str
    """The text between the first marker and the second, or the end."""
    verdict: Verdict
    bertscore: Similarity | None = None


class ScoreLine(Record):
    """One scored sample: everything that any figure of the evaluation is computed from."""

    sample_id: str
    case_id: str | None
    question: str
    images: tuple[str, ...]
    reference_answer: str
    reference_reasoning: str | None
    answer_type: AnswerType
    finish: Literal["stop", "length"]
    prompt_tokens: NonNegativeInt
    new_tokens: NonNegativeInt
    tiles: NonNegativeInt
    markers: NonNegativeInt
    """How often the marker occurs."""
    status: Status
    reasoning: str
    """What stands before the last marker; all of the text where there is none."""
    answer: str | None
    """What stands after the last marker; None where there is no marker."""
    exact: bool
    """Whether a complete answer equals the reference after normalisation."""
    verdict: Verdict
    """The honest view's: without a complete answer it is wrong, with the status as its reason."""
    bertscore: Similarity | None
    """Of a complete answer; None without one, and where no BERTScore was asked for."""
    original: OriginalView | None
    """None: the original script passes over this sample before it counts it."""

    @property
    def case(self) -> tuple[str, str]:
        """What the sample is resampled with; a sample's own id never meets a case's."""
        return ("sample", self.sample_id) if self.case_id is None else ("case", self.case_id)


RecordT = TypeVar("RecordT", bound=Record)


def to_jsonl(records: Iterable[Record]) -> bytes:
    """Write records as UTF-8 JSON lines, fields in the model's order, each line ended by a newline."""
    return "".join(
        json.dumps(record.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")) + "\n"
        for record in records
    ).encode()


def read_jsonl(kind: type[RecordT], body: bytes, *, where: str) -> list[RecordT]:
    """Read JSON lines as records of one kind; `where` names the file in messages.

    Raises BadData with every fault of every line at once, for duplicate sample ids too.
    """
    records: list[RecordT] = []
    faults = FaultList()
    seen: dict[str, int] = {}
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{where} line {number}"
        try:
            record = kind.model_validate_json(line)
        except ValidationError as error:
            faults.extend(_faults_of(error, place))
            continue
        records.append(record)
        sample_id = getattr(record, "sample_id", None)
        if sample_id is not None and seen.setdefault(sample_id, number) != number:
            faults.append(duplicate_id(place, sample_id, f"line {seen[sample_id]}"))
    faults.raise_any(where=where)
    return records


def duplicate_id(place: str, sample_id: str, first: str) -> Fault:
    """The fault of an id that was already used at another place of the file."""
    return Fault(
        where=place,
        what=f"the id {sample_id!r} was already used at {first}",
        remedy="Give every sample an id of its own",
    )


class FaultList:
    """The first MOST_FAULTS faults of a file, and how many there are: a file may have one in every other byte."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[Fault] = []

    def append(self, fault: Fault) -> None:
        """Note one."""
        self.extend([fault])

    def extend(self, faults: Sequence[Fault]) -> None:
        """Note some."""
        self.count += len(faults)
        self._first += faults[: MOST_FAULTS - len(self._first)]

    def raise_any(self, *, where: str) -> None:
        """Raise BadData with the first faults and the number of the rest; none: return."""
        if not self.count:
            return
        rest = self.count - len(self._first)
        more = [Fault(where=where, what=f"{rest} more faults are not shown", remedy="Mend these first")] if rest else []
        raise BadData([*self._first, *more])


def _faults_of(error: ValidationError, place: str) -> list[Fault]:
    return [
        Fault(
            where=place + _path(problem),
            what=str(problem["msg"]),
            remedy="Write this file again with the command that made it",
        )
        for problem in error.errors(include_url=False, include_input=False)
    ]


def _path(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    parts = ".".join(str(part) for part in location) if isinstance(location, tuple) else str(location)
    return f", {parts}" if parts else ""
