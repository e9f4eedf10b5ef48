"""run.json: a Run as the store keeps it, written once."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem import __version__
from tandem.errors import BadConfiguration, BadData, Fault
from tandem.spec import RunSpec, Submission, canonical_json, run_id, spec_digest
from tandem.store import AlreadyThere, Store
from tandem.store.layout import RunPlace


class Pin(BaseModel):
    """One input as it was when the Run was submitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    """The reference as the Run file gives it."""
    location: str
    """Absolute path on the submitting machine, or URI."""
    digest: str
    """sha256: and the digest of the manifest of its files."""
    files: int
    size: int
    """Bytes of all files."""


class RunRecord(BaseModel):
    """What was asked for, and of which inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["tandem.dev/run-record/v1"] = Field(default="tandem.dev/run-record/v1", alias="schema")
    id: str
    namespace: str
    name: str
    spec: dict[str, Any]
    """The spec exactly as submitted: its digest is part of the id."""
    folder: str
    """What relative paths in the spec were relative to."""
    inputs: dict[str, Pin]
    """By place in the Run file."""
    tandem: str
    """Version that wrote this record."""
    submitted_at: str
    """UTC, ISO 8601."""

    def parse_spec(self) -> RunSpec:
        """The validated spec."""
        return RunSpec.model_validate(self.spec)


def write_record(
    store: Store,
    submission: Submission,
    inputs: dict[str, Pin],
    *,
    namespace: str,
    submitted_at: str,
    again: bool,
) -> tuple[RunPlace, bytes]:
    """Write run.json unless this Run is there already; returns where it lies and its bytes.

    The same Run with the same inputs is the one that is there. `again` takes the next free id instead. Raises
    BadConfiguration if inputs changed under an unchanged Run file, for then its id would mean two things.
    """
    name, number = submission.run.metadata.name, 0
    while True:
        place = RunPlace(namespace=namespace, run_id=run_id(name, submission.spec, number))
        record = RunRecord(
            id=place.run_id,
            namespace=namespace,
            name=name,
            spec=submission.spec,
            folder=str(submission.folder),
            inputs=inputs,
            tandem=__version__,
            submitted_at=submitted_at,
        )
        body = canonical_json(record.model_dump(mode="json", by_alias=True))
        try:
            store.put_if_absent(place.record, body)
        except AlreadyThere:
            if again:
                number += 1
                continue
            body = store.get(place.record)
            _require_same(parse_record(body, where=place.record), record)
        return place, body


def parse_record(body: bytes, *, where: str) -> RunRecord:
    """A run.json's content. Raises BadData."""
    try:
        record = RunRecord.model_validate_json(body)
        record.parse_spec()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadData(
            Fault(
                where=f"{where}: {'.'.join(str(part) for part in first['loc'])}",
                what=f"is not a run record that this version reads ({first['msg']})",
                remedy="Use the version of tandem that wrote it.",
            )
        ) from None
    return record


def list_runs(store: Store, namespace: str, *, prefix: str = "") -> list[RunPlace]:
    """The Runs of a namespace whose ids start so, by id.

    A folder without a record was broken off while it was submitted: it is no Run.
    """
    names = (name for name in store.list_folders(f"runs/{namespace}/") if name.startswith(prefix))
    places = (RunPlace(namespace=namespace, run_id=name) for name in names)
    return [place for place in places if any(entry.key == place.record for entry in store.list(place.record))]


def list_namespaces(store: Store) -> list[str]:
    """The namespaces that have Runs in a store; those of one machine are in `local`."""
    return list(store.list_folders("runs/"))


def find_run(store: Store, wanted: str, *, namespace: str | None = None) -> tuple[RunPlace, bytes]:
    """The Run with this id, or the only one whose id starts so. Namespace None: of all of them.

    Raises BadConfiguration if there is not one.
    """
    namespaces = list_namespaces(store) if namespace is None else [namespace]
    matching = [place for one in namespaces for place in list_runs(store, one, prefix=wanted)]
    exact = [place for place in matching if place.run_id == wanted]
    chosen = exact or matching
    if len(chosen) == 1:
        return chosen[0], store.get(chosen[0].record)
    remedy = "See `tandem list` for the ids."
    if not chosen:
        what = "no Run has this id"
    elif exact:
        what = f"the namespaces {', '.join(place.namespace for place in exact)} each have a Run with this id"
        remedy = "Choose one with --namespace."
    else:
        what = f"{len(chosen)} Runs have ids that start so"
    raise BadConfiguration(Fault(where=f"RUN {wanted!r}", what=what, remedy=remedy))


def _require_same(stored: RunRecord, ours: RunRecord) -> None:
    if spec_digest(stored.spec) != spec_digest(ours.spec):
        raise BadConfiguration(
            Fault(
                where=stored.id,
                what="another spec with the same ten digits is already there",
                remedy="Give the Run another name.",
            )
        )
    changed = [
        Fault(
            where=f"{place}: {pin.text}",
            what="has changed since this Run was first submitted",
            remedy="Use --again for a new Run with the new content, or bring the old files back.",
        )
        for place, pin in ours.inputs.items()
        if place not in stored.inputs or stored.inputs[place].digest != pin.digest
    ]
    if changed:
        raise BadConfiguration(changed)
