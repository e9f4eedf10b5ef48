"""Local inputs of a Run put into the store under their digests, so that the Run can be made anywhere."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tandem.errors import BadData, Fault
from tandem.inputs.pin import list_files
from tandem.inputs.references import InputKind, Reference, list_references
from tandem.inputs.resolve import Resolver
from tandem.spec import Submission
from tandem.store import Store, upload_tree
from tandem.store.manifest import digest_folder, tree_digest


def push_folder(store: Store, folder: Path) -> tuple[str, int, int]:
    """Upload a folder under its digest, once; its URI (ending in a slash), and how many files and bytes it has."""
    digest = tree_digest(digest_folder(folder)).removeprefix("sha256:")
    prefix = f"inputs/sha256/{digest}/"
    manifest = upload_tree(store, folder, prefix)
    return f"{store.url.rstrip('/')}/{prefix}", len(manifest), sum(file.size for file in manifest.values())


def push_inputs(
    submission: Submission, resolver: Resolver, store: Store, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """Upload every input of a Run that is a local path, and return its spec with URIs in their place.

    Only the files that the Run reads go up. Inputs that are URIs or hub ids already stay as they are. report gets a
    line an input. Raises BadData, naming each, for data that lie outside the folder of the file that names them.
    """
    spec = copy.deepcopy(submission.spec)
    local = [
        (reference, path)
        for reference in list_references(submission.run.spec)
        if (path := resolver.locate(reference.text)).exists() and "://" not in reference.text
    ]
    files = {reference.place: list_files(reference, path, resolver) for reference, path in local}
    faults = [_outside(reference, name) for reference, _ in local for name in files[reference.place] if ".." in name]
    if faults:
        raise BadData(faults)
    for reference, path in local:
        uri, count, size = _push_files(store, files[reference.place])
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


def _outside(reference: Reference, name: str) -> Fault:
    return Fault(
        where=f"{reference.place}: {reference.text}",
        what=f"names {name}, which lies outside its folder",
        remedy="Put the images below the folder of the file that names them: they go up together.",
    )


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
