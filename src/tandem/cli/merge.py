"""`tandem merge`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tandem.cli.console import print_text
from tandem.cli.places import cache_folder
from tandem.errors import BadConfiguration, Fault
from tandem.inputs import Resolver, pin_inputs
from tandem.inputs.references import InputKind, Reference
from tandem.inputs.resolve import require
from tandem.model.card import CardBase, read_card
from tandem.record.run import find_run, parse_record
from tandem.spec import Subject
from tandem.stage.adapters import ADAPTER_FILES, fetch_trained_adapter
from tandem.store.files import digest_file
from tandem.store.manifest import tree_digest
from tandem.store.opening import open_store


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What is merged."""

    adapter: Path
    source: str
    """Where the adapter comes from, for the card."""
    base: Reference
    home: Path
    """What the base's relative path is relative to."""


def merge_run(wanted: str, destination: Path, store_url: str, *, checkpoint: str, base: str | None) -> None:
    """Merge the adapter of a Run, or of a folder, with the base model that it was trained on."""
    with tempfile.TemporaryDirectory(prefix="tandem-merge-") as work:
        if _is_adapter(Path(wanted)):
            found = _use_folder(Path(wanted), checkpoint)
        else:
            found = _fetch_from_run(wanted, store_url, checkpoint, Path(work))
        if base is not None:
            found = replace(found, base=_refer(base), home=Path.cwd())
        _merge(found, destination)


def _is_adapter(folder: Path) -> bool:
    try:
        return (folder / "adapter_config.json").is_file()
    except OSError:  # a name that the file system does not allow
        return False


def read_checkpoint(text: str) -> tuple[Subject, int | None]:
    """What --checkpoint chooses; nothing is the adapter that training ended with. Raises BadConfiguration."""
    named = {"": Subject.ADAPTER, "best": Subject.CHECKPOINT_BEST, "last": Subject.CHECKPOINT_LAST}
    if text in named:
        return named[text], None
    if text.isascii() and text.isdigit():
        return Subject.ADAPTER, int(text)
    what = f"{text[:40]!r} is neither best, last nor a step"
    raise BadConfiguration(Fault(where="--checkpoint", what=what, remedy="See `tandem show RUN` for the checkpoints."))


def _use_folder(folder: Path, checkpoint: str) -> Ingredients:
    if checkpoint:
        what = "the folder of an adapter has no checkpoints to choose from"
        raise BadConfiguration(Fault(where="--checkpoint", what=what, remedy="Leave it out, or name a Run."))
    base = _refer(read_card(folder).base.source)
    return Ingredients(adapter=folder, source=str(folder), base=base, home=Path.cwd())


def _fetch_from_run(wanted: str, store_url: str, checkpoint: str, work: Path) -> Ingredients:
    subject, step = read_checkpoint(checkpoint)
    store = open_store(store_url)
    place, body = find_run(store, wanted)
    record = parse_record(body, where=place.record)
    spec, home = record.parse_spec(), Path(record.folder)
    if spec.train is not None:
        adapter = fetch_trained_adapter(store, place, subject, step, work)
    elif spec.model.adapter is not None and not checkpoint:
        resolver = Resolver(folder=home, cache=cache_folder())
        adapter = require(resolver.resolve(spec.model.adapter), "spec.model.adapter", spec.model.adapter)
    else:
        what = "the Run trains nothing, so it has no checkpoints" if checkpoint else "the Run has no adapter"
        remedy = "Name a Run with spec.train, or the folder of an adapter."
        raise BadConfiguration(Fault(where=place.run_id, what=what, remedy=remedy))
    return Ingredients(
        adapter=adapter,
        source=place.run_id + (f", checkpoint {checkpoint}" if checkpoint else ""),
        base=_refer(spec.model.source, spec.model.revision),
        home=home,
    )


def _refer(base: str, revision: str | None = None) -> Reference:
    return Reference(place="base", text=base, kind=InputKind.MODEL, revision=revision)


def _merge(found: Ingredients, destination: Path) -> None:
    from tandem.model.libraries import load_libraries
    from tandem.model.merge import merge_adapter

    load_libraries()
    resolver = Resolver(folder=found.home, cache=cache_folder())
    pin, _ = pin_inputs((found.base,), resolver)[found.base.place]
    files = {name: digest_file(found.adapter / name) for name in ADAPTER_FILES if (found.adapter / name).is_file()}
    merged = merge_adapter(
        require(resolver.resolve(found.base.text, found.base.revision), found.base.place, found.base.text),
        found.adapter,
        destination,
        base_digest=pin.digest,
        adapter_origin=CardBase(source=found.source, digest=tree_digest(files)),
    )
    print_text(f"{destination}: {merged.base.source} with {merged.adapter.source} ({merged.adapter.digest})")
