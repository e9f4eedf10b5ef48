"""The manifest of a tree: which files, how large, with which SHA-256."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault
from tandem.store.contract import Corrupt, FileDigest, Manifest
from tandem.store.files import digest_file, digest_of, typed_os_errors
from tandem.store.keys import check_key

MANIFEST = "manifest.json"
"""Its key below the tree's prefix."""

SCHEMA = "tandem.dev/manifest/v1"

_MOST_PROBLEMS = 100

_LARGEST = 2**53 - 1
"""Bytes: the largest integer of canonical JSON (RFC 8785)."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0, le=_LARGEST)]
    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Annotated[Literal["tandem.dev/manifest/v1"], Field(alias="schema")]
    files: dict[str, _File]


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as canonical JSON (RFC 8785): equal trees have equal bytes."""
    return rfc8785.dumps(
        {
            "schema": SCHEMA,
            "files": {path: {"size": file.size, "sha256": file.sha256} for path, file in manifest.items()},
        }
    )


def decode_manifest(body: bytes, *, where: str) -> Manifest:
    """Read a manifest that comes from elsewhere. Raises Corrupt with everything that is wrong with it."""
    try:
        document = _Document.model_validate_json(body)
    except ValidationError as error:
        problems = [_problem(detail["loc"], detail["msg"]) for detail in error.errors(include_input=False)]
        raise _corrupt(where, problems) from error
    problems = list(_unusable_paths(document.files, where=where))
    if problems:
        raise _corrupt(where, problems)
    return {path: FileDigest(size=file.size, sha256=file.sha256) for path, file in sorted(document.files.items())}


def tree_digest(manifest: Manifest) -> str:
    """The digest that names a tree, sha256:<64 hex digits>: of its canonical manifest."""
    return f"sha256:{digest_of(encode_manifest(manifest)).sha256}"


def digest_folder(folder: Path) -> Manifest:
    """The manifest of a local folder; links to files count as files, empty folders do not count.

    Raises BadData for whatever could not be stored as a file (a link to a folder, a socket, an unusable
    name, a manifest.json at the top), all at once.
    """
    return {path: digest_file(folder / path) for path in list_folder(folder)}


def list_folder(folder: Path) -> list[str]:
    """The relative paths of a local folder's files, in key order. Raises BadData as digest_folder does."""
    paths: list[str] = []
    faults: list[Fault] = []
    with typed_os_errors(str(folder)):
        for path in _entries(folder):
            try:
                paths.append(_storable(folder, path))
            except BadData as error:
                faults += error.faults
    if faults:
        raise BadData(faults)
    return sorted(paths)


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder itself; a link to a folder is not followed."""
    for above, subfolders, names in os.walk(folder, onerror=_raise):
        yield from (Path(above) / name for name in names)
        yield from (path for name in subfolders if (path := Path(above) / name).is_symlink())


def _storable(folder: Path, path: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    check_key(relative, where=str(folder))
    if not path.is_file():
        remedy = "Put a file in its place, or take it away"
        raise BadData(Fault(where=str(path), what="it is neither a file nor a link to one", remedy=remedy))
    if relative == MANIFEST:
        remedy = "Move it away: the store writes a file of this name"
        raise BadData(Fault(where=str(path), what=f"the name {MANIFEST} is reserved at the top", remedy=remedy))
    return relative


def _raise(error: OSError) -> None:
    raise error


def _unusable_paths(files: dict[str, _File], *, where: str) -> Iterator[str]:
    for path in sorted(files):
        try:
            check_key(path, where=where)
        except BadData as error:
            yield error.faults[0].what
            continue
        if path == MANIFEST:
            yield f"it lists {MANIFEST} itself"
        parents = (path[:end] for end, character in enumerate(path) if character == "/")
        yield from (f"{parent!a} is both a file and a folder" for parent in parents if parent in files)


def _problem(place: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, place))!a}: {message}" if place else message


def _corrupt(where: str, problems: list[str]) -> Corrupt:
    remedy = "It was damaged, or something else wrote it: do not use this tree"
    shown = problems[:_MOST_PROBLEMS]
    if len(problems) > _MOST_PROBLEMS:
        shown = [*shown, f"and {len(problems) - _MOST_PROBLEMS} problems more"]
    return Corrupt([Fault(where=where, what=f"not a manifest: {what}", remedy=remedy) for what in shown])
