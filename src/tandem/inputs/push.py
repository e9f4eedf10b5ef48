"""Local inputs of a Run put into the store under their digests, so that the Run can be made anywhere."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import BadConfiguration, BadData, Fault, PermanentError
from tandem.inputs.pin import is_there, list_files
from tandem.inputs.references import InputKind, Reference, list_references
from tandem.inputs.resolve import SCHEMES, Resolver, require
from tandem.spec import RunSpec
from tandem.store import Store, upload_tree
from tandem.store.manifest import digest_folder, tree_digest

MOST_SHOWN = 20
"""Missing images of one input that are named; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class LocalInput:
    """An input on this machine, and the files that go up for it."""

    reference: Reference
    path: Path
    files: Mapping[str, Path]
    """By their names below the folder of `path`."""


def push_folder(store: Store, folder: Path) -> tuple[str, int, int]:
    """Upload a folder under its digest, once; its URI (ending in a slash), and how many files and bytes it has."""
    digest = tree_digest(digest_folder(folder)).removeprefix("sha256:")
    prefix = f"inputs/sha256/{digest}/"
    manifest = upload_tree(store, folder, prefix)
    return f"{store.url.rstrip('/')}/{prefix}", len(manifest), sum(file.size for file in manifest.values())


def find_local_inputs(spec: RunSpec, resolver: Resolver) -> list[LocalInput]:
    """Every input of a Run that is a local path, with the files that the Run reads of it.

    Raises BadConfiguration with every input that is nowhere, else BadData, and everything else that is wrong with them:
    data that cannot be read, images that are not there or lie outside the folder of the file that names them.
    """
    found: list[LocalInput] = []
    faults: list[Fault] = []
    kind: type[PermanentError] = BadData
    for reference in list_references(spec):
        if reference.text.startswith(SCHEMES):
            continue
        try:
            path = resolver.resolve(reference.text)
            if path is None and reference.revision is not None:
                continue  # a model of the hub
            path = require(path, reference.place, reference.text)
            local = LocalInput(reference=reference, path=path, files=list_files(reference, path, resolver))
            faults += _find_faults(local)
            found.append(local)
        except PermanentError as error:
            faults += error.faults
            kind = BadConfiguration if isinstance(error, BadConfiguration) else kind
    if faults:
        raise kind(list(dict.fromkeys(faults)))
    return found


def push_inputs(
    given: Mapping[str, Any],
    inputs: Sequence[LocalInput],
    resolver: Resolver,
    store: Store,
    *,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Upload the local inputs of a Run, and return its spec with URIs in their place; `given` is the spec as written.

    Inputs that are URIs or hub ids already stay as they are. report gets a line an input.
    """
    spec = copy.deepcopy(dict(given))
    for local in inputs:
        reference, path = local.reference, local.path
        uri, count, size = _push_files(store, local.files)
        report(f"{reference.place}: {count} files, {size} bytes")
        if reference.kind is InputKind.MODEL:
            _put(spec, reference.place, uri.rstrip("/"))
            continue
        _put(spec, reference.place, f"{uri}{path.name}")
        if reference.images is not None:
            images = os.path.relpath(resolver.locate(reference.images), path.parent)
            place = reference.place.removesuffix(".data") + ".images"
            _put(spec, place, (uri if images == "." else f"{uri}{Path(images).as_posix()}").rstrip("/"))
    return spec


def _find_faults(local: LocalInput) -> Iterator[Fault]:
    missing = [name for name, file in local.files.items() if not is_there(file)]
    for name in missing[:MOST_SHOWN]:
        remedy = "Correct the name or put the file there; `tandem check` names the samples that show it."
        yield Fault(where=str(local.path), what=f"names {name}, which does not exist", remedy=remedy)
    if len(missing) > MOST_SHOWN:
        what = f"and {len(missing) - MOST_SHOWN} more files that it names do not exist"
        yield Fault(where=str(local.path), what=what, remedy="All of them: tandem check FILE --json.")
    for name in local.files:
        if ".." in Path(name).parts:
            what = f"names {name}, which lies outside its folder"
            remedy = "Put the images below the folder of the file that names them: they go up together."
            yield Fault(where=str(local.path), what=what, remedy=remedy)


def _push_files(store: Store, files: Mapping[str, Path]) -> tuple[str, int, int]:
    with tempfile.TemporaryDirectory(prefix="tandem-push-") as room:
        for name, file in files.items():
            link = Path(room, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())
        return push_folder(store, Path(room))


def _put(spec: dict[str, Any], place: str, value: str) -> None:
    """Set what stands at a place such as spec.evals[base].data."""
    *above, last = place.removeprefix("spec.").split(".")
    section: Any = spec
    for part in above:
        name, found, entry = part.removesuffix("]").partition("[")
        section = section[name]
        if found:
            section = next(one for one in section if one["name"] == entry)
    section[last] = value
