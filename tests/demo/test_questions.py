import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.demo.questions import (
    Kind,
    Picture,
    Question,
    ask_all,
    ask_cases,
    ask_even,
    ask_high,
    ask_larger,
    ask_name,
    ask_order,
)

DIGITS = st.integers(0, 9)
KINDS: tuple[Kind, ...] = get_args(Kind)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311


def picture(digit: int, number: int = 0) -> Picture:
    return Picture(name=f"images/{number}.png", digit=digit)


def pictures(count: int) -> list[Picture]:
    return [picture(number % 10, number) for number in range(count)]


def every_question(first: int, second: int) -> list[Question]:
    one, two = picture(first, 1), picture(second, 2)
    both = [ask_order(one, two)]
    if first != second:
        both.append(ask_larger(one, two))
    return [ask_name(one), ask_even(one), ask_high(one), *both]


@given(DIGITS, DIGITS)
def test_every_question_has_a_place_for_each_of_its_pictures(first: int, second: int) -> None:
    for question in every_question(first, second):
        assert question.text.count("<image>") == len(question.pictures)


@given(DIGITS, DIGITS)
def test_the_base_is_taught_the_answer_as_last_words_and_no_marker(first: int, second: int) -> None:
    for question in every_question(first, second):
        assert question.plain.endswith(f" {question.answer}")
        assert question.plain.startswith(question.reasoning)
        assert "#" not in question.plain


def test_the_name_of_a_digit_is_an_open_question() -> None:
    question = ask_name(picture(7))
    assert (question.answer, question.answer_type) == ("7", "OPEN")
    assert question.reasoning == "The image shows 7."


@given(DIGITS)
def test_even_digits_are_told_from_odd_ones(digit: int) -> None:
    question = ask_even(picture(digit))
    assert question.answer == ("Yes" if digit in {0, 2, 4, 6, 8} else "No")
    assert question.reasoning == f"The image shows {digit}, which is {'odd' if digit % 2 else 'even'}."
    assert question.answer_type == "CLOSED"


@given(DIGITS)
def test_high_digits_are_told_from_low_ones(digit: int) -> None:
    question = ask_high(picture(digit))
    assert question.answer == ("Yes" if digit in {5, 6, 7, 8, 9} else "No")
    assert question.reasoning == f"The image shows {digit}, which is {'above four' if digit > 4 else 'below five'}."
    assert question.answer_type == "CLOSED"


@given(DIGITS, DIGITS)
def test_an_answer_follows_from_the_reasoning_whatever_was_asked(first: int, second: int) -> None:
    """A tiny model seldom learns to weigh the digit against the question's word: an exclusive or."""
    answers: dict[str, set[str]] = {}
    for question in [*every_question(first, second), *every_question(second, first)]:
        if question.answer_type == "CLOSED":
            answers.setdefault(question.reasoning, set()).add(question.answer)
    assert all(len(given_for_it) == 1 for given_for_it in answers.values())


def test_the_order_of_two_pictures_decides_the_answer() -> None:
    three, seven = picture(3, 1), picture(7, 2)
    assert ask_order(three, seven).answer == "3 and 7"
    assert ask_order(seven, three).answer == "7 and 3"
    assert ask_larger(three, seven).answer == "The second"
    assert ask_larger(seven, three).answer == "The first"
    assert ask_larger(three, seven).reasoning == "The images show 3 and 7, so the second is larger."


def test_two_equal_digits_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="both pictures show 4: neither is larger"):
        ask_larger(picture(4, 1), picture(4, 2))


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 5))
def test_each_kind_asks_about_every_picture_as_often_as_it_is_told_to(count: int, times: int, seed: int) -> None:
    questions = ask_all(pictures(count), kinds=dict.fromkeys(KINDS, times), rng=seeded(seed))
    by_kind = Counter(question.kind for question in questions)
    assert by_kind["name"] == by_kind["even"] == by_kind["high"] == by_kind["order"] == times * count
    assert by_kind["larger"] <= times * count
    for place in (0, 1):
        shown = Counter(question.pictures[place] for question in questions if question.kind == "order")
        assert set(shown.values()) == {times}


def test_kinds_that_are_not_named_are_not_asked() -> None:
    assert {question.kind for question in ask_all(pictures(9), kinds={"even": 1}, rng=seeded(0))} == {"even"}


def test_the_same_seed_asks_the_same_and_another_seed_otherwise() -> None:
    def ask(seed: int) -> list[Question]:
        return ask_all(pictures(20), kinds={"order": 1}, rng=seeded(seed))

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


@given(st.integers(2, 60), st.integers(0, 5))
def test_no_picture_is_in_two_cases_and_a_case_asks_open_and_closed(count: int, seed: int) -> None:
    cases = ask_cases(pictures(count), rng=seeded(seed))
    assert len(cases) == count // 2
    used = [{shown.name for question in case for shown in question.pictures} for case in cases]
    assert sum(map(len, used)) == len(set().union(*used)) == 2 * len(cases)
    for case in cases:
        assert {question.answer_type for question in case} == {"OPEN", "CLOSED"}
        assert len(case) == 3


def test_held_out_questions_are_open_and_closed_in_about_equal_parts() -> None:
    cases = ask_cases(pictures(200), rng=seeded(0))
    kinds = Counter(question.answer_type for case in cases for question in case)
    assert kinds["OPEN"] + kinds["CLOSED"] == 300
    assert 130 <= kinds["CLOSED"] <= 150
