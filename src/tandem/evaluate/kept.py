"""What was found out once, kept in a store, so that finding it out again costs nothing.

Objects never change, so a damaged one stays as it is: what is then found out anew goes beside it, as <name>-1.json, and
counts from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

from tandem.store import AlreadyThere, Corrupt, NotThere

_GENERATIONS = 4
"""Where even the last of so many objects is damaged, it is found out each time."""

Value = TypeVar("Value")
Read = Callable[[bytes], Value]
"""What an object holds. Raises Damaged where it cannot be used."""


class ObjectStore(Protocol):
    """The two methods of a Store that are used."""

    def get(self, key: str) -> bytes:
        """Read an object. Raises NotThere."""
        ...

    def put_if_absent(self, key: str, body: bytes) -> None:
        """Write an object once. Raises AlreadyThere."""
        ...


class Damaged(Exception):
    """An object is there and cannot be used."""


def find_kept(store: ObjectStore, name: str, read: Read[Value]) -> Value | None:
    """What is kept under a name (a key without its .json); None if there is nothing that can be read."""
    for key in _keys(name):
        try:
            return _read(store, key, read)
        except NotThere:
            return None
        except Damaged:
            continue
    return None


def keep_first(store: ObjectStore, name: str, body: bytes, read: Read[Value]) -> Value | None:
    """Keep an object; of two writers the first counts. Returns what it has kept, None if that is this object."""
    for key in _keys(name):
        try:
            store.put_if_absent(key, body)
            break
        except AlreadyThere:
            with suppress(Damaged, NotThere):
                return _read(store, key, read)
    return None


def _read(store: ObjectStore, key: str, read: Read[Value]) -> Value:
    try:
        return read(store.get(key))
    except Corrupt:
        raise Damaged from None


def _keys(name: str) -> Iterator[str]:
    yield f"{name}.json"
    for generation in range(1, _GENERATIONS):
        yield f"{name}-{generation}.json"
