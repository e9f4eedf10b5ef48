"""A mirror holds what the server holds, whatever it has missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.control.api import CONFIG_MAP, Busy, Change, Kind, Object
from tandem.control.fake import FakeApi
from tandem.control.watch import RELIST_SECONDS, Mirror
from tandem.errors import Fault, TandemError


class Seen:
    """A mirror, and what it told."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.seconds = 0.0
        self.told: list[tuple[str, bool]] = []
        self.mirror = Mirror(
            api=api,
            kind=CONFIG_MAP,
            namespace="n",
            selector="",
            now=lambda: self.seconds,
            random=lambda: 0.5,
            notify=lambda one, is_gone: self.told.append((one["metadata"]["name"], is_gone)),
            index=lambda one: one["data"].get("of"),
        )

    def contents(self) -> dict[str, str]:
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in self.mirror.all()}


def make(api: FakeApi, name: str, of: str = "a") -> None:
    api.create(CONFIG_MAP, "n", {"metadata": {"name": name}, "data": {"of": of}})


def on_server(api: FakeApi) -> dict[str, str]:
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in api.list(CONFIG_MAP, "n").items}


def test_it_lists_once_and_watches_from_there() -> None:
    seen = Seen(FakeApi())
    make(seen.api, "one")
    seen.mirror.refresh()
    make(seen.api, "two")
    seen.api.delete(CONFIG_MAP, "n", "one")
    seen.mirror.refresh()
    assert seen.told == [("one", False), ("two", False), ("one", True)]
    verbs = [verb for verb, _, _ in seen.api.calls]
    assert verbs.count("list") == 1
    assert seen.contents() == on_server(seen.api)


def test_what_has_expired_is_listed_again() -> None:
    seen = Seen(FakeApi())
    make(seen.api, "one")
    seen.mirror.refresh()
    seen.api.delete(CONFIG_MAP, "n", "one")
    make(seen.api, "two")
    seen.api.forget()
    seen.mirror.refresh()
    assert seen.contents() != on_server(seen.api)
    seen.mirror.refresh()
    assert seen.contents() == on_server(seen.api)
    assert ("one", True) in seen.told


def test_a_bookmark_moves_the_version_on() -> None:
    seen = Seen(FakeApi())
    seen.mirror.refresh()
    seen.api.create(Kind(group="", version="v1", kind="Other", plural="others"), "n", {"metadata": {"name": "x"}})
    seen.mirror.refresh()
    seen.api.forget()
    seen.api._forgotten -= 1
    seen.mirror.refresh()
    assert [verb for verb, _, _ in seen.api.calls].count("list") == 1


def test_a_listing_that_is_old_is_made_again_even_if_nothing_failed() -> None:
    seen = Seen(FakeApi())
    make(seen.api, "one")
    seen.mirror.refresh()
    seen.api._objects.clear()
    seen.mirror.refresh()
    assert seen.contents() == {"one": "uid-000001"}
    seen.seconds += RELIST_SECONDS
    seen.mirror.refresh()
    assert seen.contents() == {}
    assert seen.told[-1] == ("one", True)


def test_an_object_of_the_same_name_that_is_another_is_told_as_gone_and_new() -> None:
    seen = Seen(FakeApi())
    make(seen.api, "one")
    seen.mirror.refresh()
    seen.api.delete(CONFIG_MAP, "n", "one")
    make(seen.api, "one")
    seen.api.forget()
    seen.mirror.refresh()
    seen.mirror.refresh()
    assert seen.told == [("one", False), ("one", True), ("one", False)]


def test_pauses_grow_with_jitter_to_a_bound_and_end_with_success() -> None:
    seen = Seen(FakeApi())
    pauses = []

    def away(*_: Any) -> None:
        raise Busy(Fault(where="it", what="is away", remedy="Wait."))

    seen.api.before = away
    for _ in range(8):
        with pytest.raises(Busy):
            seen.mirror.refresh()
        pauses.append(seen.mirror.pause())
    assert pauses == [0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5, 22.5]
    seen.api.before = lambda *_: None
    seen.mirror.refresh()
    assert (seen.mirror.failures, seen.mirror.error) == (0, None)


def test_a_server_that_says_how_long_it_wants_to_be_left_alone_is() -> None:
    seen = Seen(FakeApi())

    def busy(*_: Any) -> None:
        raise Busy(Fault(where="it", what="is busy", remedy="Wait."), after=60.0)

    seen.api.before = busy
    with pytest.raises(Busy):
        seen.mirror.refresh()
    assert seen.mirror.pause() == 60.0


class Leaky(FakeApi):
    """A server whose watches break off after some changes, and sometimes expire."""

    breaks: list[int]

    def watch(self, kind: Kind, namespace: str | None, **options: Any) -> Iterator[Change]:
        left = self.breaks.pop(0) if self.breaks else 99
        for change in super().watch(kind, namespace, **options):
            if left == 0:
                raise Busy(Fault(where="watch", what="was cut off", remedy="Watch again."))
            left -= 1
            yield change


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.sampled_from("abcde")),
        st.tuples(st.just("delete"), st.sampled_from("abcde")),
        st.tuples(st.just("change"), st.sampled_from("abcde")),
        st.tuples(st.just("forget"), st.just("")),
        st.tuples(st.just("refresh"), st.just("")),
    ),
    max_size=40,
)


@given(STEPS, st.lists(st.integers(0, 3), max_size=10))
def test_it_ends_with_what_the_server_has_whatever_broke_on_the_way(
    steps: list[tuple[str, str]], breaks: list[int]
) -> None:
    api = Leaky()
    api.breaks = breaks
    seen = Seen(api)
    for step, name in steps:
        with suppress(TandemError):
            match step:
                case "make":
                    make(api, name, of=name)
                case "delete":
                    api.delete(CONFIG_MAP, "n", name)
                case "change":
                    api.merge(CONFIG_MAP, "n", name, {"data": {"of": "changed"}})
                case "forget":
                    api.forget()
                case "refresh":
                    seen.mirror.refresh()
    api.breaks = []
    for _ in range(3):
        seen.mirror.refresh()
    assert seen.contents() == on_server(api)
    assert indexed(seen.mirror) == {
        of: sorted(one["metadata"]["name"] for one in api.list(CONFIG_MAP, "n").items if one["data"]["of"] == of)
        for of in {one["data"]["of"] for one in api.list(CONFIG_MAP, "n").items}
    }
    balance: dict[str, int] = {}
    for name, is_gone in seen.told:
        balance[name] = 0 if is_gone else 1
    assert {name for name, there in balance.items() if there} == set(on_server(api))


def indexed(mirror: Mirror) -> dict[str, list[str]]:
    objects: list[Object] = mirror.all()
    return {of: [one["metadata"]["name"] for one in mirror.find(of)] for of in {one["data"]["of"] for one in objects}}
