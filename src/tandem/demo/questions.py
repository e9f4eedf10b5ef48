"""Questions about pictures of digits, and the answers that the base and then the adapter are taught."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

Kind = Literal["name", "even", "high", "order", "larger"]

TAUGHT_TO_BASE: Mapping[Kind, int] = MappingProxyType({"name": 1, "even": 1, "order": 1, "larger": 2})
"""How many times each picture is asked about in each way. The base was never asked whether a digit is above four:
that question is the adapter's to learn."""

TAUGHT_TO_ADAPTER: Mapping[Kind, int] = MappingProxyType({"name": 1, "even": 1, "high": 2, "order": 1, "larger": 2})
"""What the base knows already needs practice in the new format only."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One handwritten digit as an image file."""

    name: str
    """Path of the image file, relative to the data folder."""
    digit: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one or two pictures, their order being part of it."""

    kind: Kind
    pictures: tuple[Picture, ...]
    text: str
    reasoning: str
    """Says which digits the pictures show; all that the answer follows from."""
    answer: str
    answer_type: Literal["OPEN", "CLOSED"]
    plain: str
    """Reasoning, then the answer as the last words, but without the marker."""


def ask_name(picture: Picture) -> Question:
    """Ask which digit a picture shows."""
    sentence = f"The image shows {picture.digit}."
    return Question(
        kind="name",
        pictures=(picture,),
        text="<image>\nWhich digit is this?",
        reasoning=sentence,
        answer=str(picture.digit),
        answer_type="OPEN",
        plain=f"{sentence} Answer: {picture.digit}",
    )


def ask_even(picture: Picture) -> Question:
    """Ask whether a picture's digit is even."""
    even = picture.digit % 2 == 0
    return _ask_property("even", "even", picture, found="even" if even else "odd", holds=even)


def ask_high(picture: Picture) -> Question:
    """Ask whether a picture's digit is above four."""
    high = picture.digit > 4
    return _ask_property("high", "above four", picture, found="above four" if high else "below five", holds=high)


def _ask_property(kind: Kind, asked: str, picture: Picture, *, found: str, holds: bool) -> Question:
    """The reasoning names what the question asks for, so that the answer follows from the reasoning alone."""
    sentence = f"The image shows {picture.digit}, which is {found}."
    answer = "Yes" if holds else "No"
    return Question(
        kind=kind,
        pictures=(picture,),
        text=f"<image>\nIs this digit {asked}?",
        reasoning=sentence,
        answer=answer,
        answer_type="CLOSED",
        plain=f"{sentence} Answer: {answer}",
    )


def ask_order(first: Picture, second: Picture) -> Question:
    """Ask which digits two pictures show, in their order."""
    answer = f"{first.digit} and {second.digit}"
    sentence = f"The images show {answer}."
    return Question(
        kind="order",
        pictures=(first, second),
        text="First: <image>\nSecond: <image>\nWhich digits are these, in order?",
        reasoning=sentence,
        answer=answer,
        answer_type="OPEN",
        plain=f"{sentence} Answer: {answer}",
    )


def ask_larger(first: Picture, second: Picture) -> Question:
    """Ask which of two pictures shows the larger digit; the two digits differ."""
    if first.digit == second.digit:
        raise ValueError(f"both pictures show {first.digit}: neither is larger")
    place = "first" if first.digit > second.digit else "second"
    sentence = f"The images show {first.digit} and {second.digit}, so the {place} is larger."
    answer = f"The {place}"
    return Question(
        kind="larger",
        pictures=(first, second),
        text="First: <image>\nSecond: <image>\nWhich image shows the larger digit?",
        reasoning=sentence,
        answer=answer,
        answer_type="CLOSED",
        plain=f"{sentence} Answer: {answer}",
    )


def ask_all(pictures: Sequence[Picture], *, kinds: Mapping[Kind, int], rng: random.Random) -> list[Question]:
    """Ask about all pictures in random order, in each kind of question as often as `kinds` says.

    Questions about two pictures get new partners each time, but for pairs that cannot be compared. At least two
    pictures are needed.
    """
    questions: list[Question] = []
    for kind, times in kinds.items():
        for _ in range(times):
            match kind:
                case "name":
                    questions += [ask_name(picture) for picture in pictures]
                case "even":
                    questions += [ask_even(picture) for picture in pictures]
                case "high":
                    questions += [ask_high(picture) for picture in pictures]
                case "order" | "larger":
                    questions += _ask_about_pairs(kind, pictures, rng)
    rng.shuffle(questions)
    return questions


def _ask_about_pairs(
    kind: Literal["order", "larger"], pictures: Sequence[Picture], rng: random.Random
) -> Iterator[Question]:
    ring = rng.sample(pictures, len(pictures))
    for first, second in pairwise([*ring, ring[0]]):
        if kind == "order":
            yield ask_order(first, second)
        elif first.digit != second.digit:
            yield ask_larger(first, second)


def ask_cases(pictures: Sequence[Picture], *, rng: random.Random) -> list[tuple[Question, ...]]:
    """Make cases of two pictures each, no picture in two cases, with three questions a case.

    They ask for the first digit, whether the second is above four (or even, in turn), and for the larger of the two (or
    for both in order, in turn, and where both are the same).
    """
    shuffled = rng.sample(pictures, len(pictures))
    cases: list[tuple[Question, ...]] = []
    for index, (first, second) in enumerate(zip(shuffled[::2], shuffled[1::2], strict=False)):
        closed = ask_high(second) if index // 2 % 2 == 0 else ask_even(second)
        comparable = index % 2 == 0 and first.digit != second.digit
        both = ask_larger(first, second) if comparable else ask_order(first, second)
        cases.append((ask_name(first), closed, both))
    return cases
