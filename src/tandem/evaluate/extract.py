"""Find the answer in a generated text, and say what is wrong where there is none."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from tandem.evaluate.records import Status

DEFAULT_MARKER = "### The final answer is:"
"""What stands between reasoning and answer; the original's, and the default of the Run file."""

_EDGE_BEFORE = "*_`\"'\u201c\u201d\u2018\u2019 "
_EDGE_AFTER = _EDGE_BEFORE + ".,;:!?"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A generated text taken apart at its last marker."""

    status: Status
    markers: int
    reasoning: str
    """What stands before the last marker; all of the text where there is none."""
    answer: str | None
    """What stands after the last marker, cut off or empty as it may be; None where there is no marker."""

    @property
    def complete(self) -> bool:
        """Whether there is an answer that the model itself ended."""
        return self.status in {"answered", "several_markers"}


def extract(text: str, *, finish: Literal["stop", "length"], marker: str = DEFAULT_MARKER) -> Extraction:
    """Take a generated text apart.

    Exactly one status holds, the first that fits in this order.
    truncated: the token limit ended the text, wherever it was: even an answer after a marker is not known
    to be whole. empty: no text at all, or nothing after the last marker. no_marker: text without a marker.
    several_markers: more than one marker; the answer stands after the last, and counts as answered.
    answered: one marker and an answer.
    """
    if not marker.strip():
        raise ValueError("the marker is blank")
    before, found, after = text.rpartition(marker)
    answer = after.strip() if found else None
    markers = text.count(marker)
    return Extraction(
        status=_status(text, answer, markers, finish),
        markers=markers,
        reasoning=(before if found else text).strip(),
        answer=answer,
    )


def _status(text: str, answer: str | None, markers: int, finish: Literal["stop", "length"]) -> Status:
    if finish == "length":
        return "truncated"
    if not text.strip() or answer == "":
        return "empty"
    if answer is None:
        return "no_marker"
    return "several_markers" if markers > 1 else "answered"


def normalise(text: str) -> str:
    """Bring an answer into the form in which exact match compares it.

    Unicode NFC (NFKC would make 10² into 102), case-folded, runs of white space as one blank; quotes and
    Markdown emphasis removed from both ends, sentence punctuation from the end only (a leading "-" or "."
    belongs to a number). Nothing inside the answer changes: articles and word order count. A text of
    nothing but such marks is compared as it is.
    """
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.rstrip(_EDGE_AFTER).lstrip(_EDGE_BEFORE) or folded


def is_exact(answer: str, reference: str) -> bool:
    """Whether two answers are the same after normalisation."""
    return normalise(answer) == normalise(reference)


def is_yes_or_no(reference: str) -> bool:
    """Whether an answer is a bare yes or no, as a closed question's is."""
    return normalise(reference) in {"yes", "no"}
