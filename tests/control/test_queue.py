"""The queue of Runs: none is lost, none is worked on twice at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.control.queue import WorkQueue


def test_a_name_is_given_out_when_it_is_due_and_once() -> None:
    queue = WorkQueue()
    queue.add("a", 10.0)
    assert queue.take(9.9) is None
    assert queue.next_due() == 10.0
    assert queue.take(10.0) == "a"
    assert queue.take(99.0) is None
    assert queue.next_due() is None


def test_the_earlier_of_two_times_counts() -> None:
    queue = WorkQueue()
    queue.add("a", 10.0)
    queue.add("a", 5.0)
    queue.add("a", 20.0)
    assert queue.take(5.0) == "a"
    queue.finish("a")
    assert queue.take(99.0) is None


def test_a_name_asked_for_while_it_is_worked_on_comes_back_afterwards() -> None:
    queue = WorkQueue()
    queue.add("a", 0.0)
    assert queue.take(0.0) == "a"
    queue.add("a", 1.0)
    assert queue.take(9.0) is None
    queue.finish("a")
    assert queue.take(9.0) == "a"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 9)),
            st.tuples(st.just("take"), st.just(""), st.integers(0, 9)),
            st.tuples(st.just("finish"), st.sampled_from("abc"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_no_name_is_lost_and_none_is_held_twice(steps: list[tuple[str, str, int]]) -> None:
    queue = WorkQueue()
    held: set[str] = set()
    asked: set[str] = set()
    for step, name, time in steps:
        if step == "add":
            queue.add(name, time)
            asked.add(name)
        elif step == "take":
            taken = queue.take(time)
            assert taken not in held
            if taken is not None:
                held.add(taken)
                asked.discard(taken)
        elif name in held:
            queue.finish(name)
            held.discard(name)
    for name in held:
        queue.finish(name)
    rest = set()
    while (taken := queue.take(99.0)) is not None:
        rest.add(taken)
    assert rest >= asked
    assert len(queue) == len(rest)
