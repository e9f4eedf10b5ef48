"""Which bytes the inputs of a Run are, without bringing them here: from the manifests of pushed trees.

Only the files that name others are read (meta, annotations, evaluation files); images and weights stay where they
are. The pins are those that `pin_inputs` makes of the same trees on the machine that works with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tandem.errors import BadConfiguration, BadData, Fault, PermanentError
from tandem.inputs.pin import by_revision, list_evaluation_files, list_training_files, name_from
from tandem.inputs.references import InputKind, Reference
from tandem.record.run import Pin
from tandem.store import FileDigest, Manifest, NotThere, Store
from tandem.store.manifest import tree_digest
from tandem.store.trees import read_manifest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PUSH = "Put it into the store with `tandem push PATH --store URL` and use the URI that it prints."
_PUSH_ALL = "Push all of the Run's inputs with `tandem push FILE --store URL`, and use the Run that it prints."


def pin_remote(
    references: tuple[Reference, ...],
    *,
    open_bucket: Callable[[str], Store],
    scratch: Path,
) -> dict[str, Pin]:
    """Pin every input; by place in the Run file. `scratch` is an empty folder for the files that are read.

    Raises BadConfiguration with every input that a cluster cannot reach, BadData for trees that are not whole,
    Unavailable while the store is away.
    """
    trees = RemoteTrees(open_bucket=open_bucket, folder=scratch)
    pins: dict[str, Pin] = {}
    faults: list[Fault] = []
    kind: type[PermanentError] = BadConfiguration
    for reference in references:
        try:
            pins[reference.place] = _pin(reference, trees)
        except PermanentError as error:
            faults += [trees.by_address(fault) for fault in error.faults]
            kind = BadData if isinstance(error, BadData) else kind
    if faults:
        raise kind(faults)
    return pins


@dataclass(kw_only=True)
class RemoteTrees:
    """Pushed trees as folders in which only the files that were asked for are there."""

    open_bucket: Callable[[str], Store]
    """Opens a bucket by name."""
    folder: Path
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    """By the tree's digest."""
    _places: dict[str, tuple[Store, str]] = field(default_factory=dict)
    """Store and key prefix of each tree."""
    _uris: dict[str, str] = field(default_factory=dict)
    """Address of each tree, ending in a slash."""

    def locate(self, uri: str) -> Path:
        """Where a member of a tree is, or would be. Raises BadConfiguration if it is part of none."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        store = self.open_bucket(bucket)
        parts = key.strip("/").split("/")
        for depth in range(len(parts), 0, -1):
            prefix = "/".join(parts[:depth]) + "/"
            try:
                manifest = read_manifest(store, prefix)
            except NotThere:
                continue
            digest = tree_digest(manifest).removeprefix("sha256:")
            root = self.folder / "trees" / digest
            if digest not in self._manifests:
                self._manifests[digest], self._places[digest] = manifest, (store, prefix)
                self._uris[digest] = f"s3://{bucket}/{prefix}"
                for parent in {(root / path).parent for path in manifest}:
                    parent.mkdir(parents=True, exist_ok=True)
            return root.joinpath(*parts[depth:])
        raise BadConfiguration(Fault(where=uri, what="has no manifest.json at or above it", remedy=_PUSH))

    def files_below(self, path: Path) -> Manifest:
        """The files of a tree below one of its folders, hidden ones left out, by name relative to that."""
        digest, inside = self._split(path)
        start = f"{inside}/" if inside else ""
        manifest = self._manifests[digest]
        below = {whole[len(start) :]: entry for whole, entry in manifest.items() if whole.startswith(start)}
        return {
            name: entry for name, entry in below.items() if not any(part.startswith(".") for part in name.split("/"))
        }

    def entry(self, path: Path) -> FileDigest:
        """Size and digest of one file. Raises BadData if it is in none of the trees."""
        digest, inside = self._split(path)
        entry = self._manifests.get(digest, {}).get(inside)
        if entry is None:
            what = "is named by the data, and is not in a pushed tree"
            remedy = "Push the folder that holds the data and all it names."
            raise BadData(Fault(where=str(path), what=what, remedy=remedy))
        return entry

    def fetch(self, path: Path) -> None:
        """Bring one file to its place."""
        entry = self.entry(path)
        digest, inside = self._split(path)
        store, prefix = self._places[digest]
        if not path.exists():
            store.get_file(f"{prefix}{inside}", path, entry)

    def by_address(self, fault: Fault) -> Fault:
        """A fault of a file that was brought here, told by where the file is in its bucket."""
        for digest, uri in self._uris.items():
            here = f"{self.folder / 'trees' / digest}/"
            fault = replace(fault, where=fault.where.replace(here, uri), what=fault.what.replace(here, uri))
        return fault

    def _split(self, path: Path) -> tuple[str, str]:
        try:
            digest, *rest = path.resolve().relative_to((self.folder / "trees").resolve()).parts
        except ValueError:
            return "", str(path)
        return digest, "/".join(rest)


def find_unreachable(reference: Reference) -> list[Fault]:
    """What of an input no pod could read, as the Run file alone tells: paths, and hub models that can move."""
    where = f"{reference.place}: {reference.text}"
    if reference.text.startswith("s3://"):
        if reference.images is None or reference.images.startswith("s3://"):
            return []
        return [_unreachable(f"{reference.place.removesuffix('.data')}.images: {reference.images}")]
    if reference.kind is not InputKind.MODEL or reference.revision is None:
        return [_unreachable(where)]
    if not _COMMIT.fullmatch(reference.revision):
        what = f"the revision {reference.revision[:40]!r} is no commit of 40 hex digits, and a branch or tag can move"
        return [Fault(where=where, what=what, remedy="Give the commit that the hub shows.")]
    return []


def _unreachable(where: str) -> Fault:
    what = "is a path of one machine: pods cannot read it"
    return Fault(where=where, what=what, remedy=_PUSH_ALL)


def _pin(reference: Reference, trees: RemoteTrees) -> Pin:
    text = reference.text
    faults = find_unreachable(reference)
    if faults:
        raise BadConfiguration(faults)
    if not text.startswith("s3://"):
        return _pin_hub(text, str(reference.revision))
    path = trees.locate(text)
    match reference.kind:
        case InputKind.MODEL:
            files = trees.files_below(path)
            if not files:
                what = "there is nothing below it in its tree"
                raise BadConfiguration(Fault(where=f"{reference.place}: {text}", what=what, remedy=_PUSH))
        case InputKind.META:
            trees.fetch(path)
            for annotation in _annotations(path):
                trees.fetch(annotation)
            files = _entries(trees, path, list_training_files(path, reference), may_lack=reference.may_lack > 0)
        case InputKind.EVALUATION:
            trees.fetch(path)
            images = path.parent if reference.images is None else trees.locate(reference.images)
            files = _entries(trees, path, list_evaluation_files(path, images, reference))
    return Pin(
        text=text,
        location=text,
        digest=tree_digest(files),
        files=len(files),
        size=sum(entry.size for entry in files.values()),
    )


def _pin_hub(text: str, revision: str) -> Pin:
    return Pin(text=text, location=f"{text}@{revision}", digest=by_revision(revision), files=0, size=0)


def _annotations(meta: Path) -> list[Path]:
    """The files that a meta file names, as far as it can be read: reading it in earnest says what is wrong."""
    try:
        entries = json.loads(meta.read_bytes())
        return [meta.parent / entry["annotation"] for entry in entries.values()]
    except (ValueError, AttributeError, TypeError, KeyError):
        return []


def _entries(trees: RemoteTrees, path: Path, files: set[Path], *, may_lack: bool = False) -> Manifest:
    faults: list[Fault] = []
    found: Manifest = {}
    for name, file in name_from(path.parent, files).items():
        try:
            found[name] = trees.entry(file)
        except BadData as error:
            faults += error.faults
    if faults and not may_lack:
        raise BadData(faults[:20])
    return found
