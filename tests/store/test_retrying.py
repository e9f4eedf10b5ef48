"""Waiting out what is temporary, without waiting."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration, Fault, TandemError, Unavailable
from tandem.store.retrying import QUIET_SECONDS, Retrying, seldom

FAULT = Fault(where="server", what="away", remedy="Wait")


class World:
    """A clock that only sleeping moves, and a server that is away for some calls."""

    def __init__(self, failures: int, error: type[TandemError] = Unavailable) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.calls = 0
        self._failures = failures
        self._error = error

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def ask(self) -> int:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error(FAULT)
        return self.calls

    def patient(self, **settings: Any) -> Retrying:
        made = Retrying(sleep=self.sleep, clock=lambda: self.now, random=lambda: 1.0)
        return Retrying(**{**vars(made), **settings})


def test_the_waits_double_up_to_the_longest() -> None:
    world = World(failures=5)
    assert world.patient(first_seconds=1, longest_seconds=5).call(world.ask) == 6
    assert world.waits == [1, 2, 4, 5, 5]


def test_giving_up_keeps_the_last_fault_and_says_how_often_it_was_tried() -> None:
    world = World(failures=9)
    with pytest.raises(Unavailable) as error:
        world.patient(attempts=3, first_seconds=1).call(world.ask)
    assert str(error.value) == "server: away (tried 3 times in 3 s). Wait"


def test_what_is_permanent_is_raised_at_once() -> None:
    world = World(failures=1, error=BadConfiguration)
    with pytest.raises(BadConfiguration):
        world.patient().call(world.ask)
    assert (world.calls, world.waits) == (1, [])


@given(outage=st.floats(0, 100), seed=st.integers(0, 2**32))
def test_an_outage_well_within_the_budget_is_waited_out_whatever_the_draws_are(outage: float, seed: int) -> None:
    world = World(failures=10**6)

    def ask() -> str:
        if world.now < outage:
            world.ask()
        return "back"

    draws = random.Random(seed)  # noqa: S311
    assert world.patient(random=draws.random).call(ask) == "back"
    assert world.now <= outage + 20


@given(
    failures=st.integers(0, 20),
    attempts=st.integers(1, 10),
    budget=st.floats(0, 100),
    first=st.floats(0.01, 10),
    longest=st.floats(0.01, 30),
)
def test_neither_the_attempts_nor_the_budget_are_exceeded(
    failures: int, attempts: int, budget: float, first: float, longest: float
) -> None:
    world = World(failures)
    patient = world.patient(attempts=attempts, budget_seconds=budget, first_seconds=first, longest_seconds=longest)
    with suppress(Unavailable):
        assert patient.call(world.ask) == failures + 1
    assert world.calls <= attempts
    assert world.now <= budget
    assert all(wait <= longest for wait in world.waits)


def test_a_short_absence_is_not_mentioned_and_a_longer_one_is() -> None:
    said: list[str] = []
    world = World(failures=3)
    world.patient(say=said.append).call(world.ask)
    assert sum(world.waits) < QUIET_SECONDS
    assert said == []
    world = World(failures=5)
    world.patient(say=said.append).call(world.ask)
    assert said == [
        "server: away. It is asked again for up to 118 s more",
        "server: away. It is asked again for up to 116 s more",
    ]


def test_of_many_requests_that_wait_one_is_heard_every_half_minute() -> None:
    said: list[tuple[float, str]] = []
    now = 100.0
    say = seldom(lambda line: said.append((now, line)), lambda: now)
    for _ in range(50):
        say("away")
        now += 1
    assert said == [(100.0, "away"), (130.0, "away")]
