"""A restart makes each missing part with the very calls of the engine that an undisturbed attempt makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import Stopped
from tandem.evaluate.batches import plan_batches, select_shard
from tandem.evaluate.fast.cache import count_pages
from tandem.evaluate.fast.prefill import Prompt
from tandem.evaluate.fast.schedule import Request, generate_texts
from tandem.evaluate.generate import Generator
from tandem.evaluate.packed import PackedTexts
from tandem.evaluate.parts import Part, Progress, Written, plan_parts, write_parts
from tandem.evaluate.prepare import PreparedSample
from tandem.evaluate.records import EvalSample
from tandem.evaluate.shelf import ShelfPlace, StoreShelf
from tandem.store import Directory

NEW = 40
LEAST = 5
GENERATOR = cast(
    Generator,
    SimpleNamespace(
        network=None,
        tokenizer=SimpleNamespace(decode=lambda ids, **_: f"{len(ids)} tokens"),
        settings=SimpleNamespace(geometry=SimpleNamespace(tile_size=56)),
        max_new_tokens=NEW,
        stop_ids=frozenset({0}),
    ),
)

Call = tuple[Any, ...]


@dataclass
class Notes:
    """What the engines of one attempt were called with, by the number of the part that it was for."""

    part_of: dict[int, int]
    """A sample -> its part."""
    calls: dict[int, list[Call]] = field(default_factory=dict)
    current: int = -1

    def read(self, indexes: Sequence[int], *call: Any) -> None:
        (self.current,) = {self.part_of[index] for index in indexes}
        self.add("read", tuple(indexes), *call)

    def add(self, *call: Any) -> None:
        self.calls.setdefault(self.current, []).append(call)


@dataclass
class NotingEngine:
    """A machine without a model, whose texts end after some tokens that only their samples decide."""

    slots: int
    pages: int
    row_tokens: int
    notes: Notes
    texts_left: int
    """Then its memory runs out."""
    growing: dict[int, list[int]] = field(default_factory=dict)
    """A slot -> how long its text is, how long it will be."""

    def describe(self) -> dict[str, Any]:
        return {"slots": self.slots, "pages": self.pages, "row_tokens": self.row_tokens}

    def generate(
        self, groups: Sequence[Sequence[Request]], load: Callable[[int], Prompt], *, loaders: int
    ) -> Iterator[tuple[int, list[int]]]:
        def load_index(index: int) -> Prompt:
            return Prompt(ids=[index], pixels=torch.empty(0))

        for found in generate_texts(self, groups, load_index, most_new_tokens=NEW, loaders=loaders):
            if not self.texts_left:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.texts_left -= 1
            yield found

    def read(self, prompts: Sequence[Prompt], slots: Sequence[int], pages: Sequence[Sequence[int]]) -> None:
        indexes = [prompt.ids[0] for prompt in prompts]
        assert not self.growing.keys() & set(slots)
        self.notes.read(indexes, tuple(slots), tuple(map(tuple, pages)), tuple(sorted(self.growing)))
        self.growing.update({slot: [1, 1 + index * 7 % NEW] for slot, index in zip(slots, indexes, strict=True)})

    def advance(self, steps: int) -> None:
        self.notes.add("advance", steps)
        for text in self.growing.values():
            text[0] = min(text[0] + steps, text[1])

    def look(self) -> tuple[list[bool], list[int]]:
        texts = [self.growing.get(slot, [0, 0]) for slot in range(self.slots)]
        return [text[0] < text[1] for text in texts], [text[0] for text in texts]

    def take(self, slots: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        self.notes.add("take", tuple(slots), tuple(lengths))
        for slot in slots:
            del self.growing[slot]
        return [[0] * length for length in lengths]


@dataclass
class Desk:
    """One shard of an evaluation, and attempts at it."""

    folder: Path
    lengths: Sequence[int]
    shards: int

    def __post_init__(self) -> None:
        plan = plan_batches(self.lengths, max_new_tokens=NEW, batch_tokens=300)
        self.parts: tuple[Part, ...] = plan_parts(select_shard(plan, shard=0, shards=self.shards), least_samples=LEAST)
        self.batches = sum(len(part.batches) for part in self.parts)
        self.samples = [
            EvalSample(sample_id=str(n), question="?", images=(), reference_answer="a", answer_type="OPEN")
            for n in range(len(self.lengths))
        ]

    def attempt(
        self, store: str, execution: str, *, stop_after: int = -1, slots: int = 3, texts: int = -1
    ) -> tuple[Written | None, Notes]:
        """Stop after so many batches; run out of memory with the whole budget after so many texts."""
        notes = Notes(part_of={index: part.number for part in self.parts for index in part.samples})

        def prepare(_: Any, prompt_tokens: Sequence[int], *, halvings: int, **__: Any) -> NotingEngine:
            longest = count_pages(max(prompt_tokens) + NEW)
            return NotingEngine(
                slots=min(slots, len(prompt_tokens)),
                pages=1 + max(longest, (2 * longest + 1) >> halvings),
                row_tokens=300 >> halvings,
                notes=notes,
                texts_left=texts if halvings == 0 else -1,
            )

        def report(progress: Progress) -> None:
            if progress.batches == stop_after:
                raise Stopped([])

        maker = PackedTexts(
            generator=GENERATOR,
            samples=[
                PreparedSample(sample=sample, place="eval.json", images=(), tiles_per_image=(), prompt_tokens=length)
                for sample, length in zip(self.samples, self.lengths, strict=True)
            ],
            threads=1,
            prepare=prepare,
        )
        place = ShelfPlace(store=Directory(self.folder / store), executions="e/", execution=execution)
        shelf = StoreShelf(place=place, made_with={}, say=pytest.fail)
        output = self.folder / f"{store}-{execution}"
        with suppress(Stopped):
            return write_parts(maker, self.parts, self.samples, shelf=shelf, output=output, report=report), notes
        return None, notes

    def read(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    shards=st.integers(1, 3),
    stops=st.lists(st.integers(0, 15), max_size=3),
)
def test_a_restart_makes_the_same_calls_for_missing_parts_and_none_for_others(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shards: int, stops: list[int]
) -> None:
    desk = Desk(tmp_path_factory.mktemp("packed"), lengths, shards)
    whole, undisturbed = desk.attempt("undisturbed", "000")
    assert whole is not None
    assert list(undisturbed.calls) == [part.number for part in desk.parts]
    made: set[int] = set()
    for number, stop in enumerate(stops):
        _, notes = desk.attempt("disturbed", f"{number:03d}", stop_after=stop)
        begun = [part.number for part in desk.parts if part.number not in made][: len(notes.calls)]
        assert list(notes.calls) == begun
        for part, calls in notes.calls.items():
            assert calls == undisturbed.calls[part][: len(calls)]
        left = desk.read(f"disturbed-{number:03d}")
        made.update(part.number for part in desk.parts if part.name in left)
    last, notes = desk.attempt("disturbed", "last")
    assert last is not None
    assert notes.calls == {part: calls for part, calls in undisturbed.calls.items() if part not in made}
    assert desk.read("disturbed-last") == desk.read("undisturbed-000")
    assert last.made_alike
    assert len(last.reused) == len(made)


LENGTHS = [20 + 37 * number % 300 for number in range(40)]


def test_parts_of_another_budget_are_gone_on_with_and_known_for_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, LENGTHS, 1)
    desk.attempt("store", "001", stop_after=desk.batches // 2)
    written, _ = desk.attempt("store", "002", slots=4)
    assert written is not None
    assert 0 < len(written.reused) < len(desk.parts)
    assert not written.made_alike


def test_after_memory_ran_out_a_parts_rest_and_all_later_parts_are_of_the_halved_budget(tmp_path: Path) -> None:
    desk = Desk(tmp_path, LENGTHS, 1)
    first = len(desk.parts[0].samples)
    written, _ = desk.attempt("store", "001", texts=first + 2)
    assert written is not None
    assert not written.made_alike
    halvings = {each.sample_id: each.batch_halvings for each in written.predictions}
    by_part = [[halvings[str(index)] for index in part.samples] for part in desk.parts]
    assert by_part[0] == [0] * first
    assert sorted(by_part[1]) == [0, 0] + [1] * (len(desk.parts[1].samples) - 2)
    assert all(set(part) == {1} for part in by_part[2:])
