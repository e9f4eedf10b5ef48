"""What a stage works with: the verified Run, the store, and folders on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.inputs import Resolver, verify_pins
from tandem.inputs.pin import pin_input, require_pin
from tandem.inputs.references import Reference, list_references
from tandem.inputs.resolve import require
from tandem.model.card import CardBase
from tandem.record.run import RunRecord, parse_record
from tandem.spec import RunSpec, sha256_hex
from tandem.stage.facts import Facts
from tandem.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """One attempt of one stage, ready to work."""

    facts: Facts
    execution: str
    """Name of this execution: nobody else writes under it."""
    store: Store
    record: RunRecord
    spec: RunSpec
    resolver: Resolver
    work: Path
    """An empty folder of this attempt's own; what is in work/output goes to the store."""

    @property
    def output(self) -> Path:
        """What goes to the store."""
        return self.work / "output"

    @property
    def prefix(self) -> str:
        """Where it goes."""
        return self.facts.place.execution(self.facts.stage, self.execution)

    @property
    def base(self) -> CardBase:
        """Which model this Run starts from, by the digest of its files, also where the hub's commit pins them."""
        place = "spec.model.source"
        pin = require_pin(self.record.inputs, place)
        if not pin.digest.startswith("sha256:"):
            pin, _ = pin_input(self._reference(place), self.resolver)
        return CardBase(source=self.spec.model.source, digest=pin.digest)

    def use_input(self, place: str) -> Path:
        """An input's file or folder on this machine, digested again: it is what the Run was submitted with."""
        reference = self._reference(place)
        verify_pins(self.record.inputs, (reference,), self.resolver)
        return require(self.resolver.resolve(reference.text, reference.revision), place, reference.text)

    def _reference(self, place: str) -> Reference:
        return next(reference for reference in list_references(self.spec) if reference.place == place)


def load_record(store: Store, facts: Facts) -> RunRecord:
    """Read run.json. Raises BadData if it is not the one that was planned or not readable by this version."""
    body = store.get(facts.place.record)
    if sha256_hex(body) != facts.run_sha256:
        raise BadData(
            Fault(
                where=facts.place.record,
                what="is not the Run that this attempt was started for (its SHA-256 differs)",
                remedy="Someone wrote into the store by hand: restore run.json, or submit with --again.",
            )
        )
    return parse_record(body, where=facts.place.record)
