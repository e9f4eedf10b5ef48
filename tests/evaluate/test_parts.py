"""Parts survive whatever breaks an attempt off: no sample lost, none twice, and in the end the same files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import Stopped, Unavailable
from tandem.evaluate.batches import Batch, plan_batches, select_shard
from tandem.evaluate.parts import Part, Progress, Written, is_part, plan_parts, write_parts
from tandem.evaluate.records import EvalSample, Prediction
from tandem.evaluate.shards import merge_shards
from tandem.evaluate.shelf import ShelfPlace, StoreShelf
from tandem.store import AlreadyThere, Directory

EXECUTIONS = "runs/local/r/evals/a/generate/shard-00/executions/"
MADE_WITH = {"settings": {"precision": "bfloat16", "marker": "A:"}, "engine": "plain"}
SAMPLES = [
    EvalSample(
        sample_id=f"s{number}", question=f"Which is {number}?", images=(), reference_answer="a", answer_type="OPEN"
    )
    for number in range(23)
]
BATCHES = plan_batches([10 + number % 7 for number in range(23)], max_new_tokens=10, batch_tokens=80)
PARTS = plan_parts(BATCHES, least_samples=5)


@dataclass
class Maker:
    """Makes texts that say which batch they were made with, in a given order of batches, until it fails."""

    fails_after: int | None = None
    error: Exception = field(default_factory=lambda: Stopped([]))
    shuffle: Callable[[list[Batch]], None] = lambda batches: None
    made: list[int] = field(default_factory=list)
    name: str = "plain"
    least_samples: int = 5
    described: dict[str, Any] = field(default_factory=dict)

    def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
        order = [batch for part in parts for batch in part.batches]
        self.shuffle(order)
        for number, batch in enumerate(order):
            if number == self.fails_after:
                raise self.error
            self.made.append(batch.index)
            yield batch, [predict(index, f"{index} of {batch.samples}") for index in batch.samples]

    def describe(self) -> dict[str, Any]:
        return self.described


def predict(index: int, text: str) -> Prediction:
    sample = SAMPLES[index]
    return Prediction(**dict(sample), text=text, finish="stop", prompt_tokens=9, new_tokens=4, tiles=0)


@dataclass
class Desk:
    """A store, and attempts at one shard one after the other."""

    folder: Path
    told: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    @property
    def store(self) -> Directory:
        return Directory(self.folder / "store")

    def attempt(self, execution: str, maker: Maker, made_with: dict[str, Any] = MADE_WITH) -> Written:
        place = ShelfPlace(store=self.store, executions=EXECUTIONS, execution=execution)
        shelf = StoreShelf(place=place, made_with=made_with, say=self.told.append)
        output = self.folder / execution
        return write_parts(maker, PARTS, SAMPLES, shelf=shelf, output=output, report=self.progress.append)

    def read(self, execution: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / execution).iterdir()}

    def stored(self, execution: str, name: str) -> Path:
        return self.folder / "store" / EXECUTIONS / execution / name


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200), st.integers(1, 4), st.integers(1, 30))
def test_every_batch_of_a_shard_is_in_one_part(lengths: list[int], budget: int, shards: int, least: int) -> None:
    plan = plan_batches(lengths, max_new_tokens=5, batch_tokens=budget)
    for shard in range(shards):
        batches = select_shard(plan, shard=shard, shards=shards)
        parts = plan_parts(batches, least_samples=least)
        assert tuple(batch for part in parts for batch in part.batches) == batches
        assert [part.number for part in parts] == list(range(len(parts)))
        for part in parts:
            assert len(part.batches[:-1]) == 0 or sum(len(b.samples) for b in part.batches[:-1]) < least
        assert all(len(part.samples) >= least for part in parts[:-1])


breaks = st.lists(st.integers(0, len(BATCHES) - 1), max_size=5)


@settings(max_examples=20)
@given(breaks, st.randoms(use_true_random=False))
def test_however_often_it_breaks_off_the_files_are_those_of_an_undisturbed_attempt(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], random: Any
) -> None:
    desk = Desk(tmp_path_factory.mktemp("parts"))
    desk.attempt("undisturbed", Maker(), {**MADE_WITH, "engine": "another"})
    whole: set[int] = set()
    for number, after in enumerate(breaks):
        maker = Maker(fails_after=after, shuffle=random.shuffle)
        with suppress(Stopped):
            desk.attempt(f"{number:03d}", maker)
        assert not whole.intersection(maker.made), "what an earlier attempt left whole is not made again"
        made = whole.union(maker.made)
        whole = {
            batch.index for part in PARTS if made.issuperset(b.index for b in part.batches) for batch in part.batches
        }
    last = Maker(shuffle=random.shuffle)
    written = desk.attempt("last", last)
    assert set(last.made) == {batch.index for batch in BATCHES} - whole
    undisturbed, ended = desk.read("undisturbed"), desk.read("last")
    assert {name: body for name, body in ended.items() if name != "parts.json"} == {
        name: body for name, body in undisturbed.items() if name != "parts.json"
    }
    assert set(written.reused) <= set(filter(is_part, ended))
    assert [each.sample_id for each in merge_shards([written.predictions], SAMPLES)] == [s.sample_id for s in SAMPLES]
    assert {name: desk.stored("last", name).read_bytes() for name in ended} == ended, "the last execution is complete"


def test_a_part_is_in_the_store_as_soon_as_it_is_whole(desk: Desk) -> None:
    seen: list[list[str]] = []

    def look(batch: Batch) -> None:
        seen.append(sorted(filter(is_part, (entry.key.rpartition("/")[2] for entry in desk.store.list(EXECUTIONS)))))

    class Watched(Maker):
        def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
            for made in super().make(parts):
                look(made[0])
                yield made

    desk.attempt("001", Watched())
    finished = itertools.accumulate(len(part.batches) for part in PARTS)
    for number, count in enumerate(finished, start=1):
        if count < len(seen):
            assert seen[count] == [part.name for part in PARTS[:number]]


def test_progress_begins_with_what_was_found_and_ends_with_everything(desk: Desk) -> None:
    with pytest.raises(Stopped):
        desk.attempt("001", Maker(fails_after=len(PARTS[0].batches)))
    desk.progress.clear()
    desk.attempt("002", Maker())
    total = {"batches_total": len(BATCHES), "samples_total": 23}
    first = Progress(batches=len(PARTS[0].batches), samples=len(PARTS[0].samples), **total)
    assert desk.progress[0] == first
    assert desk.progress[-1] == Progress(batches=len(BATCHES), samples=23, **total)


@pytest.mark.parametrize(
    ("made_with", "named"),
    [
        ({**MADE_WITH, "engine": "packed"}, "engine"),
        ({**MADE_WITH, "settings": {"precision": "float32", "marker": "A:"}}, "settings.precision"),
        ({**MADE_WITH, "adapter_weights": "0f"}, "adapter_weights"),
    ],
)
def test_parts_that_were_made_with_anything_else_are_left_alone_and_it_is_said(
    desk: Desk, made_with: dict[str, Any], named: str
) -> None:
    desk.attempt("001", Maker())
    maker = Maker()
    assert desk.attempt("002", maker, made_with).reused == {}
    assert len(maker.made) == len(BATCHES)
    assert desk.told == [f"the parts of 001 are not used: they differ in {named}"]


def test_parts_tell_later_attempts_what_their_maker_said_of_itself(desk: Desk) -> None:
    small, large = {"slots": 2, "adapter": None}, {"slots": 3, "adapter": None}
    with pytest.raises(Stopped):
        desk.attempt("001", Maker(fails_after=len(PARTS[0].batches), described=small))
    with pytest.raises(Stopped):
        desk.attempt("002", Maker(fails_after=len(PARTS[1].batches), described=small))
    assert desk.attempt("003", Maker(described=small)).made_alike
    for part in PARTS[2:]:
        desk.stored("003", part.name).with_suffix(".json").unlink()
    assert not desk.attempt("004", Maker(described=large)).made_alike
    again = desk.attempt("005", Maker())
    assert set(again.reused.values()) == {"004"}, "the fourth has all parts, as it found or made them"
    assert not again.made_alike


def damage(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body.replace(b'"text":"', b'"text":"X', 1))


def swap_sample(path: Path) -> None:
    """Another question under the same id, with a header that fits."""
    from tandem.evaluate.shelf import PartHeader
    from tandem.store.files import digest_of

    body = path.read_bytes().replace(b"Which is", b"What is", 1)
    path.write_bytes(body)
    header = path.with_suffix(".json")
    digest = digest_of(body)
    batches = tuple(json.loads(header.read_bytes())["batches"])
    header.write_bytes(PartHeader(batches=batches, size=digest.size, sha256=digest.sha256).model_dump_json().encode())


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        swap_sample,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_bytes(b"{}"),
        lambda path: path.with_suffix(".json").write_bytes(b"[" * 100_000),
    ],
)
def test_a_damaged_part_is_said_and_made_again(desk: Desk, spoil: Callable[[Path], None]) -> None:
    desk.attempt("001", Maker())
    spoil(desk.stored("001", PARTS[1].name))
    maker = Maker()
    written = desk.attempt("002", maker)
    assert maker.made == [batch.index for batch in PARTS[1].batches]
    assert PARTS[1].name not in written.reused
    (line,) = desk.told
    assert line.startswith(f"{PARTS[1].name} of 001 is not used: ")
    assert {name: body for name, body in desk.read("002").items() if is_part(name)} == {
        part.name: b"".join(
            json.dumps(predict(i, f"{i} of {b.samples}").model_dump(mode="json"), separators=(",", ":")).encode()
            + b"\n"
            for i in part.samples
            for b in part.batches
            if i in b.samples
        )
        for part in PARTS
    }


def test_a_part_without_its_header_was_broken_off_and_is_made_again_in_silence(desk: Desk) -> None:
    desk.attempt("001", Maker())
    desk.stored("001", PARTS[0].name).with_suffix(".json").unlink()
    maker = Maker()
    desk.attempt("002", maker)
    assert maker.made == [batch.index for batch in PARTS[0].batches]
    assert desk.told == []


def test_unreadable_parts_json_costs_that_executions_parts_only(desk: Desk) -> None:
    for execution, after in (("001", len(PARTS[0].batches)), ("002", len(BATCHES) - 1)):
        with pytest.raises(Stopped):
            desk.attempt(execution, Maker(fails_after=after - (len(PARTS[0].batches) if execution == "002" else 0)))
    desk.stored("002", "parts.json").write_bytes(b"nothing")
    maker = Maker()
    written = desk.attempt("003", maker)
    assert written.reused == {PARTS[0].name: "001"}
    assert desk.told == ["the parts of 002 are not used: its parts.json cannot be read"]


def test_an_execution_that_starts_again_under_its_own_name_goes_on(desk: Desk) -> None:
    with pytest.raises(Stopped):
        desk.attempt("pod", Maker(fails_after=len(PARTS[0].batches) + 1))
    maker = Maker()
    assert desk.attempt("pod", maker).reused == {PARTS[0].name: "pod"}
    with pytest.raises(AlreadyThere):
        desk.attempt("pod", Maker(), {**MADE_WITH, "engine": "packed"})


def test_a_leftover_writer_of_an_earlier_attempt_changes_nothing(desk: Desk) -> None:
    """Attempt 1 goes on part by part while attempt 2 does."""
    with pytest.raises(Stopped):
        desk.attempt("001", Maker(fails_after=len(PARTS[0].batches)))

    class Leftover(Maker):
        def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
            for made in super().make(parts):
                place = ShelfPlace(store=desk.store, executions=EXECUTIONS, execution="001")
                late = StoreShelf(place=place, made_with=MADE_WITH, say=desk.told.append)
                part = next(part for part in PARTS if made[0] in part.batches)
                with suppress(AlreadyThere):
                    late.keep(part, b"late\n", {})
                yield made

    desk.attempt("002", Leftover())
    desk.attempt("alone", Maker(), {**MADE_WITH, "engine": "another"})
    parts = {name: body for name, body in desk.read("002").items() if is_part(name)}
    assert parts == {name: body for name, body in desk.read("alone").items() if is_part(name)}


def test_a_store_that_is_away_ends_the_attempt_and_the_next_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = Directory.put_if_absent, itertools.count()

    def away(self: Directory, key: str, body: bytes) -> None:
        if next(calls) >= 4:
            raise Unavailable([])
        put(self, key, body)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "put_if_absent", away)
        with pytest.raises(Unavailable):
            desk.attempt("001", Maker())
    assert desk.attempt("002", Maker()).reused == {PARTS[0].name: "001"}
