"""commit.json: which execution of a stage counts, written once after its manifest was verified."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import Fault
from tandem.spec import canonical_json
from tandem.store import AlreadyThere, Corrupt, Manifest, NotThere, Store
from tandem.store.files import digest_of, require_equal
from tandem.store.layout import EXIT, RunPlace
from tandem.store.manifest import MANIFEST, decode_manifest
from tandem.store.parallel import in_parallel

_READERS = 8
"""Files that are read at once."""

_STEP = re.compile(r"step-([0-9]+)")


class Tree(BaseModel):
    """A tree of the store, pinned by its manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str
    """Key prefix, ending in a slash."""
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Commit(BaseModel):
    """One stage's commit."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["tandem.dev/commit/v1"] = Field(default="tandem.dev/commit/v1", alias="schema")
    stage: str
    execution: str
    """Name of the execution that counts."""
    tree: Tree
    """Everything it wrote."""
    checkpoints: dict[int, Tree] = {}
    """For training: step -> the checkpoint of that step: of the execution that counts, or else of one before it."""
    committed_at: str
    """UTC, ISO 8601."""


def write_commit(store: Store, place: RunPlace, stage: str, execution: str, committed_at: str) -> Commit:
    """Verify that an execution is whole, and let it count unless another one already does.

    Returns the commit that stands. Raises Corrupt if the execution is not whole, NotThere without a manifest.
    """
    prefix = place.execution(stage, execution)
    commit = Commit(
        stage=stage,
        execution=execution,
        tree=_pin_tree(store, prefix),
        checkpoints=_pin_checkpoints(store, place, stage, execution) if stage == "train" else {},
        committed_at=committed_at,
    )
    try:
        store.put_if_absent(place.commit(stage), canonical_json(commit.model_dump(mode="json", by_alias=True)))
    except AlreadyThere:
        return read_commit(store, place, stage)
    return commit


def read_commit(store: Store, place: RunPlace, stage: str) -> Commit:
    """The commit of a stage. Raises NotThere if it has none, Corrupt if it is not one."""
    key = place.commit(stage)
    try:
        return Commit.model_validate_json(store.get(key))
    except ValidationError as error:
        raise Corrupt(
            Fault(
                where=key,
                what=f"is not a commit that tandem wrote ({error.errors(include_url=False)[0]['msg']})",
                remedy="Restore it from the bucket's versions or a backup.",
            )
        ) from None


def is_committed(store: Store, place: RunPlace, stage: str) -> bool:
    """Whether an execution of the stage counts."""
    try:
        read_commit(store, place, stage)
    except NotThere:
        return False
    return True


def read_tree(store: Store, tree: Tree) -> Manifest:
    """The manifest of a pinned tree. Raises Corrupt if it is another one than was committed."""
    key = f"{tree.prefix}{MANIFEST}"
    body = store.get(key)
    if digest_of(body).sha256 != tree.manifest_sha256:
        raise Corrupt(
            Fault(where=key, what="was changed after it was committed", remedy="Restore it from the bucket's versions.")
        )
    return decode_manifest(body, where=key)


def fetch_files(store: Store, tree: Tree, wanted: tuple[str, ...], folder: Path) -> None:
    """Bring the files of a pinned tree whose path starts with one of `wanted`, each verified."""
    manifest = read_tree(store, tree)
    for name in sorted(manifest):
        if name.startswith(wanted):
            store.get_file(f"{tree.prefix}{name}", folder / name, manifest[name])


def read_file(store: Store, tree: Tree, name: str) -> bytes:
    """One file of a pinned tree, verified. Raises NotThere, Corrupt."""
    (body,) = read_files(store, tree, (name,)).values()
    return body


def read_files(store: Store, tree: Tree, names: Sequence[str]) -> dict[str, bytes]:
    """Files of a pinned tree in the order of the names, each verified. Raises NotThere, Corrupt."""
    manifest = read_tree(store, tree)

    def read(name: str) -> bytes:
        key = f"{tree.prefix}{name}"
        if name not in manifest:
            raise NotThere(Fault(where=key, what="is not part of the committed tree", remedy="Check the name."))
        body = store.get(key)
        require_equal(digest_of(body), manifest[name], where=key)
        return body

    return dict(zip(names, in_parallel(read, names, _READERS), strict=True))


def list_executions(store: Store, place: RunPlace, stage: str) -> dict[str, bool]:
    """Every execution of a stage in name order, and whether its manifest is there."""
    prefix = place.executions(stage)
    found: dict[str, bool] = {}
    for entry in store.list(prefix):
        name, _, rest = entry.key.removeprefix(prefix).partition("/")
        found[name] = found.get(name, False) or rest == MANIFEST
    return found


def _pin_tree(store: Store, prefix: str) -> Tree:
    """Pin an execution. Raises Corrupt if a file of its manifest is missing or of another size in the store."""
    body = store.get(f"{prefix}{MANIFEST}")
    manifest = decode_manifest(body, where=f"{prefix}{MANIFEST}")
    sizes = {entry.key.removeprefix(prefix): entry.size for entry in store.list(prefix)}
    astray = sorted(name for name, digest in manifest.items() if sizes.get(name) != digest.size)
    if astray or EXIT not in manifest:
        raise Corrupt(
            Fault(
                where=f"{prefix}{astray[0] if astray else EXIT}",
                what="is missing or of another size than the manifest says",
                remedy="This execution does not count; the next attempt makes it again.",
            )
        )
    return Tree(prefix=prefix, manifest_sha256=digest_of(body).sha256)


def _pin_checkpoints(store: Store, place: RunPlace, stage: str, ours: str) -> dict[int, Tree]:
    prefix = place.executions(stage)
    found: dict[int, Tree] = {}
    for entry in store.list(prefix):
        match entry.key.removeprefix(prefix).split("/"):
            case [execution, "checkpoints", folder, "manifest.json"] if numbered := _STEP.fullmatch(folder):
                where = f"{prefix}{execution}/checkpoints/{folder}/"
                step = int(numbered[1])
                if execution != ours and step in found and found[step].prefix.startswith(f"{prefix}{ours}/"):
                    continue  # a writer that was given up may go on, and its execution may be the last by name
                found[step] = Tree(prefix=where, manifest_sha256=digest_of(store.get(entry.key)).sha256)
            case _:
                continue
    return dict(sorted(found.items()))
