"""Who is generated when: waiting samples take the slots and pages of those that have finished, group by group."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from tandem.evaluate.fast.cache import FreePages, count_pages
from tandem.evaluate.fast.prefill import Prompt, pack_prompts

STEPS_BETWEEN = 16
"""Steps before the host looks who has finished: to look is to wait for the device."""

PROMPTS_AHEAD = 32
"""Prompts that are loaded before their turn."""


class Machine(Protocol):
    """What the schedule drives."""

    @property
    def slots(self) -> int:
        """How many texts can grow together."""

    @property
    def pages(self) -> int:
        """In the cache, the waste page included."""

    @property
    def row_tokens(self) -> int:
        """Prompt tokens that are read together."""

    def read(self, prompts: Sequence[Prompt], slots: Sequence[int], pages: Sequence[Sequence[int]]) -> None:
        """Start texts in free slots."""

    def advance(self, steps: int) -> None:
        """Run steps for all slots."""

    def look(self) -> tuple[list[bool], list[int]]:
        """For each slot, whether it is active, and the length of its text."""

    def take(self, slots: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """The finished texts of slots, which are free afterwards."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to be generated."""

    index: int
    prompt_tokens: int


@dataclass(kw_only=True)
class _Running:
    request: Request
    pages: list[int]


def generate_texts(
    machine: Machine,
    groups: Sequence[Sequence[Request]],
    load: Callable[[int], Prompt],
    *,
    most_new_tokens: int,
    loaders: int,
) -> Iterator[tuple[int, list[int]]]:
    """Texts (token ids) with their requests' indexes, as they finish; groups and their requests start in this order.

    A group starts when the one before has finished: with which others a text grows, and where, does not depend on
    other groups. load makes a request's prompt; it runs in threads, ahead of need even of the next group's, and its
    exceptions come out here. Raises ValueError for a request that the cache could never hold.
    """
    most = machine.pages - 1
    for request in chain.from_iterable(groups):
        if count_pages(request.prompt_tokens + most_new_tokens) > most:
            raise ValueError(f"request {request.index} needs more pages than the cache's {most}")
    with _Loading(load, chain.from_iterable(groups), threads=loaders) as loading:
        for group in groups:
            yield from _generate_group(machine, group, loading, most_new_tokens=most_new_tokens)


def _generate_group(
    machine: Machine, requests: Sequence[Request], loading: _Loading, *, most_new_tokens: int
) -> Iterator[tuple[int, list[int]]]:
    """The texts of a group, on a machine that is empty before and after."""
    free = FreePages(machine.pages)
    waiting = deque(requests)
    running: dict[int, _Running] = {}
    idle = list(range(machine.slots - 1, -1, -1))
    while waiting or running:
        admitted: list[tuple[int, _Running]] = []
        while waiting and idle:
            needed = count_pages(waiting[0].prompt_tokens + most_new_tokens)
            if needed > len(free):
                break
            admitted.append((idle.pop(), _Running(request=waiting.popleft(), pages=free.take(needed))))
        lengths = [each.request.prompt_tokens for _, each in admitted]
        for row in pack_prompts(lengths, row_tokens=machine.row_tokens):
            chosen = [admitted[place] for place in row]
            machine.read(
                [loading.next() for _ in chosen],
                [slot for slot, _ in chosen],
                [each.pages for _, each in chosen],
            )
        running.update(admitted)
        machine.advance(min(STEPS_BETWEEN, most_new_tokens))
        active, counts = machine.look()
        ended = [slot for slot in running if not active[slot]]
        texts = machine.take(ended, [counts[slot] for slot in ended])
        for slot, text in zip(ended, texts, strict=True):
            finished = running.pop(slot)
            free.give(finished.pages)
            idle.append(slot)
            yield finished.request.index, text
        idle.sort(reverse=True)


class _Loading:
    """Prompts in the requests' order, loaded by threads a bounded number ahead."""

    def __init__(self, load: Callable[[int], Prompt], requests: Iterable[Request], *, threads: int) -> None:
        self._load = load
        self._left = iter(requests)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="prompt")
        self._started: deque[Future[Prompt]] = deque()

    def __enter__(self) -> _Loading:
        for _ in range(PROMPTS_AHEAD):
            self._start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Prompt:
        self._start()
        return self._started.popleft().result()

    def _start(self) -> None:
        request = next(self._left, None)
        if request is not None:
            self._started.append(self._pool.submit(self._load, request.index))
