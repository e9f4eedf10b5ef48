"""Doing the same to many things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Thing = TypeVar("Thing")
Outcome = TypeVar("Outcome")


def in_parallel(do: Callable[[Thing], Outcome], things: Iterable[Thing], threads: int) -> list[Outcome]:
    """The outcomes in the order of the things. After the first exception nothing new starts; it is raised."""
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        futures = [pool.submit(do, thing) for thing in things]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()) is not None:
                raise error
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
