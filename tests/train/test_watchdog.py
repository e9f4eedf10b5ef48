"""A training that hangs ends; one that is slow where it may be does not."""

from __future__ import annotations

import threading

import pytest

from tandem.train.watchdog import LENIENT, Watchdog


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def pass_minutes(self, minutes: float) -> None:
        self.seconds += 60 * minutes


@pytest.fixture
def time() -> Time:
    return Time()


def watch(time: Time, minutes: float | None, ended: list[float]) -> Watchdog:
    return Watchdog(minutes=minutes, clock=lambda: time.seconds, end=ended.append)


def test_without_a_step_for_too_long_it_ends_once(time: Time) -> None:
    ended: list[float] = []
    watchdog = watch(time, 30, ended)
    for _ in range(5):
        time.pass_minutes(29)
        watchdog.hear()
        watchdog.look()
    time.pass_minutes(30)
    watchdog.look()
    assert ended == []
    time.pass_minutes(1)
    watchdog.look()
    watchdog.look()
    assert ended == [31]


def test_before_the_first_step_and_after_the_last_it_waits_longer(time: Time) -> None:
    ended: list[float] = []
    watchdog = watch(time, 10, ended)
    time.pass_minutes(10 * LENIENT)
    watchdog.look()
    watchdog.hear(lenient=True)
    time.pass_minutes(10 * LENIENT)
    watchdog.look()
    assert ended == []
    time.pass_minutes(1)
    watchdog.look()
    assert ended == [31]


def test_none_is_for_ever_and_stopped_is_over(time: Time) -> None:
    ended: list[float] = []
    patient, stopped = watch(time, None, ended), watch(time, 1, ended)
    stopped.stop()
    time.pass_minutes(1e9)
    patient.look()
    patient.start()
    stopped.look()
    assert ended == []


def test_it_looks_by_itself() -> None:
    over = threading.Event()
    ticks = iter(range(0, 10**9, 60))
    watchdog = Watchdog(minutes=1e-3, clock=lambda: float(next(ticks)), end=lambda _: over.set())
    watchdog.start()
    over.wait()
    watchdog.stop()
