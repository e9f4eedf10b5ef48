"""Which bytes each input of a Run is, so that a later change is noticed before it makes a number."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.inputs.references import InputKind, Reference
from tandem.inputs.resolve import SCHEMES, Resolver, require
from tandem.record.run import Pin
from tandem.store import Manifest
from tandem.store.files import digest_file
from tandem.store.manifest import tree_digest

_REVISION = "revision:"
"""Begins the digest of what the hub's commit pins: it was not read when the Run was submitted."""


def by_revision(revision: str) -> str:
    """What stands for a digest where the hub's commit pins the content."""
    return f"{_REVISION}{revision}"


def pin_inputs(references: tuple[Reference, ...], resolver: Resolver) -> dict[str, tuple[Pin, Manifest]]:
    """Digest every input; by place in the Run file.

    Raises BadConfiguration for one that is not on this machine, BadData for one that cannot be read.
    """
    return {reference.place: pin_input(reference, resolver) for reference in references}


def pin_input(reference: Reference, resolver: Resolver) -> tuple[Pin, Manifest]:
    """Digest one input: the pin for the record, and the digest of each of its files."""
    path = require(resolver.resolve(reference.text, reference.revision), reference.place, reference.text)
    manifest = {name: digest_file(file) for name, file in list_files(reference, path, resolver).items()}
    pin = Pin(
        text=reference.text,
        location=reference.text if reference.text.startswith(SCHEMES) else str(path),
        digest=tree_digest(manifest),
        files=len(manifest),
        size=sum(entry.size for entry in manifest.values()),
    )
    return pin, manifest


def verify_pins(pins: Mapping[str, Pin], references: tuple[Reference, ...], resolver: Resolver) -> None:
    """Digest inputs again. Raises BadData, naming each, if any is not what the Run was submitted with."""
    faults = []
    for reference in references:
        expected = require_pin(pins, reference.place)
        if expected.digest.startswith(_REVISION):
            if reference.revision is None or expected.digest != by_revision(reference.revision):
                raise AssertionError(f"{reference.place}: the pin is of another revision than its own spec")
            continue
        found, _ = pin_input(reference, resolver)
        if found.digest != expected.digest:
            faults.append(
                Fault(
                    where=f"{reference.place}: {reference.text}",
                    what=f"has changed since the Run was submitted ({found.digest}, not {expected.digest})",
                    remedy="Bring the submitted files back, or submit a new Run with `--again`.",
                )
            )
    if faults:
        raise BadData(faults)


def require_pin(pins: Mapping[str, Pin], place: str) -> Pin:
    """The pin of a place in the Run file. Raises BadData if the record has none."""
    if place not in pins:
        what = "has no digest in the Run's record"
        raise BadData(Fault(where=place, what=what, remedy="Submit the Run anew with `--again`."))
    return pins[place]


def list_files(reference: Reference, path: Path, resolver: Resolver) -> dict[str, Path]:
    """Every file that an input consists of, by a name that does not depend on where the input lies.

    Images that are not there are left out if samples may be unusable: the training counts them.
    """
    match reference.kind:
        case InputKind.MODEL:
            return {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if _counts(file, path)}
        case InputKind.META:
            named = name_from(path.parent, list_training_files(path, reference))
            return {name: file for name, file in named.items() if not reference.may_lack or is_there(file)}
        case InputKind.EVALUATION:
            images = path.parent
            if reference.images is not None:
                place = reference.place.removesuffix(".data") + ".images"
                images = require(resolver.resolve(reference.images), place, reference.images)
            return name_from(path.parent, list_evaluation_files(path, images, reference))


def _counts(file: Path, root: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def is_there(file: Path) -> bool:
    """Whether there is a file; False also for a name that the file system does not allow."""
    try:
        return file.is_file()
    except OSError:
        return False


def list_training_files(path: Path, reference: Reference) -> set[Path]:
    """The meta file, the annotations that it names, and the images of the samples that are read and can be used.

    Raises BadData if more lines than may be cannot be used.
    """
    from tandem.train.annotations import read_samples
    from tandem.train.meta import read_meta

    meta = read_meta(path)
    files = {path, *(dataset.annotation for dataset in meta.datasets)}
    samples = read_samples(meta, limit=reference.limit, allowed_bad=reference.may_lack)
    return files | {image for sample in samples for image in sample.images}


def list_evaluation_files(path: Path, images: Path, reference: Reference) -> set[Path]:
    """The evaluation file and the images of the samples that are read."""
    from tandem.evaluate.samples import read_eval_samples

    samples = read_eval_samples(path)[: reference.limit]
    return {path, *(images / name for sample in samples for name in sample.images)}


def name_from(folder: Path, files: set[Path]) -> dict[str, Path]:
    """Files by their path relative to a folder."""
    return {Path(os.path.relpath(file, folder)).as_posix(): file for file in sorted(files)}
