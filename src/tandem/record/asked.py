"""Which objects of a cluster asked for a Run, and how it ended for each: objects may be deleted, the store stays."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tandem.outcome import Outcome
from tandem.record.document import parse_document, to_bytes
from tandem.store import AlreadyThere, NotThere, Store
from tandem.store.layout import RunPlace


class Asked(BaseModel):
    """An object that asks for a Run."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["tandem.dev/asked/v1"] = Field(default="tandem.dev/asked/v1", alias="schema")
    uid: str
    name: str
    created_at: str
    """UTC, ISO 8601."""


class Ended(BaseModel):
    """How a Run ended for one object."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["tandem.dev/ended/v1"] = Field(default="tandem.dev/ended/v1", alias="schema")
    uid: str
    phase: Literal["Succeeded", "Failed", "Cancelled"]
    stage: str | None = None
    """The stage that failed."""
    outcome: Outcome | None = None
    """Why it failed, or that the object was deleted."""
    ended_at: str
    """UTC, ISO 8601."""


def note_asked(store: Store, place: RunPlace, asked: Asked) -> None:
    """Keep that an object asks for this Run."""
    with suppress(AlreadyThere):
        store.put_if_absent(place.asked(asked.uid), to_bytes(asked))


def read_asked(store: Store, place: RunPlace, uid: str) -> Asked:
    """What an object asked for. Raises NotThere, and Corrupt."""
    key = place.asked(uid)
    return parse_document(Asked, store.get(key), where=key)


def note_ended(store: Store, place: RunPlace, ended: Ended) -> Ended:
    """Keep how the Run ended for an object; returns what stands, which may have been written before. Raises Corrupt."""
    try:
        store.put_if_absent(place.ended(ended.uid), to_bytes(ended))
    except AlreadyThere:
        found = read_ended(store, place, ended.uid)
        assert found is not None
        return found
    return ended


def read_ended(store: Store, place: RunPlace, uid: str) -> Ended | None:
    """How the Run ended for an object; None while it has not. Raises Corrupt."""
    key = place.ended(uid)
    try:
        return parse_document(Ended, store.get(key), where=key)
    except NotThere:
        return None


def list_open(store: Store, namespace: str) -> dict[str, RunPlace]:
    """Every object of a namespace for which its Run has not ended, by uid."""
    asked: dict[str, RunPlace] = {}
    for run_id in store.list_folders(f"runs/{namespace}/"):
        place = RunPlace(namespace=namespace, run_id=run_id)
        for entry in store.list(place.objects):
            uid, _, name = entry.key.removeprefix(place.objects).partition("/")
            if name == "asked.json":
                asked[uid] = place
            elif name == "ended.json":
                asked.pop(uid, None)
    return asked
