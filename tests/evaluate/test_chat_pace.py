"""How many calls may run at once, after what the server has said."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from tandem.evaluate.chat_pace import Pace


def take(pace: Pace, count: int) -> list[int]:
    return [number for _ in range(count) if (number := pace.begin()) is not None]


def test_at_first_as_many_may_run_as_the_limit_says() -> None:
    pace = Pace(4)
    assert take(pace, 4) == [1, 2, 3, 4]


def test_too_many_requests_halve_the_limit() -> None:
    pace = Pace(64)
    for wanted in (32, 16, 8, 4, 2, 1, 1):
        (call,) = take(pace, 1)
        pace.end(call, too_many=True)
        assert pace.limit == wanted


def test_calls_that_were_under_way_when_it_shrank_do_not_shrink_it_again() -> None:
    pace = Pace(64)
    calls = take(pace, 10)
    for call in calls:
        pace.end(call, too_many=True)
    assert pace.limit == 32


def test_it_grows_step_by_step_back_to_the_limit_and_not_beyond() -> None:
    pace = Pace(32)
    pace.end(take(pace, 1)[0], too_many=True)
    limits = [pace.limit]
    for _ in range(1000):
        pace.end(take(pace, 1)[0], too_many=False)
        if pace.limit != limits[-1]:
            limits.append(pace.limit)
    assert limits == [16, 18, 20, 22, 24, 26, 28, 30, 32]


def test_a_small_limit_grows_in_small_steps() -> None:
    pace = Pace(256)
    for _ in range(6):
        pace.end(take(pace, 1)[0], too_many=True)
    limits = [pace.limit]
    for _ in range(60):
        pace.end(take(pace, 1)[0], too_many=False)
        if pace.limit != limits[-1]:
            limits.append(pace.limit)
    assert limits == [4, 5, 6, 7, 8, 10, 12, 15]


def test_who_waits_goes_on_when_a_slot_is_free_and_is_let_go_when_it_closes() -> None:
    pace = Pace(1)
    (first,) = take(pace, 1)
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda: got.append(pace.begin())) for _ in range(2)]
    for thread in threads:
        thread.start()
    pace.end(first, too_many=False)
    while not got:
        threads[0].join(0.01)
    assert got == [2]
    pace.close()
    for thread in threads:
        thread.join(30)
    assert got == [2, None]
    assert pace.begin() is None


@given(st.integers(1, 300), st.lists(st.booleans(), max_size=200))
def test_whatever_the_server_says_between_one_and_the_limit_may_run(most: int, answers: list[bool]) -> None:
    pace = Pace(most)
    for too_many in answers:
        calls = take(pace, pace.limit)
        assert len(calls) == pace.limit
        for call in calls:
            pace.end(call, too_many=too_many)
        assert 1 <= pace.limit <= most
