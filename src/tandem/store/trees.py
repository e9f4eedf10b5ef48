"""Whole folders in a store: files in parallel, the manifest last, so that nobody reads half of one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tandem.errors import BadData, Fault
from tandem.store.contract import AlreadyThere, Corrupt, FileDigest, Manifest, NotThere, Store
from tandem.store.files import digest_file, require_equal, typed_os_errors
from tandem.store.keys import join
from tandem.store.manifest import MANIFEST, decode_manifest, digest_folder, encode_manifest, list_folder
from tandem.store.parallel import in_parallel


def upload_tree(store: Store, folder: Path, prefix: str, *, parallel: int = 8) -> Manifest:
    """Store a folder's files below prefix, and manifest.json after them: only then does the tree exist.

    Doing it again goes on where it was broken off. Raises AlreadyThere if a file or the manifest is there
    with other content, and BadData for what cannot be stored (see digest_folder).
    """
    paths = list_folder(folder)
    committed = _committed(store, prefix)
    if committed is not None:
        _require_same_tree(digest_folder(folder), committed, where=_where(store, prefix))
        return committed

    def upload(path: str) -> FileDigest:
        return put_same_file(store, join(prefix, path), folder / path)

    manifest = dict(zip(paths, in_parallel(upload, paths, parallel), strict=True))
    try:
        store.put_if_absent(join(prefix, MANIFEST), encode_manifest(manifest))
    except AlreadyThere:
        _require_same_tree(manifest, read_manifest(store, prefix), where=_where(store, prefix))
    return manifest


def read_manifest(store: Store, prefix: str) -> Manifest:
    """The manifest of a complete tree. Raises NotThere while there is none, Corrupt if it cannot be one."""
    key = join(prefix, MANIFEST)
    return decode_manifest(store.get(key), where=_where(store, key))


def download_tree(store: Store, prefix: str, folder: Path, *, parallel: int = 8) -> Manifest:
    """Fetch a complete tree into folder, which appears only when every file is there and verified.

    A folder that holds exactly this tree already is left as it is. Raises NotThere if the tree is not
    complete in the store, Corrupt naming every damaged or missing file, BadData if folder holds something else.
    """
    manifest = read_manifest(store, prefix)
    if _is_taken(folder):
        if digest_folder(folder) != manifest:
            what, remedy = "the folder holds something else", "Name a folder that does not exist yet"
            raise BadData(Fault(where=str(folder), what=what, remedy=remedy))
        return manifest
    with typed_os_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        whole = aside / "whole"
        with typed_os_errors(str(whole)):
            whole.mkdir()
        _each_file(
            manifest,
            lambda path, expected: store.get_file(join(prefix, path), whole / path, expected),
            store=store,
            prefix=prefix,
            parallel=parallel,
        )
        with typed_os_errors(str(folder)):
            whole.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def verify_tree(store: Store, prefix: str, *, parallel: int = 8) -> Manifest:
    """Read every file of a tree again. Raises as download_tree does, without writing anything here."""
    manifest = read_manifest(store, prefix)

    def verify(path: str, expected: FileDigest) -> None:
        key = join(prefix, path)
        require_equal(store.digest(key), expected, where=_where(store, key))

    _each_file(manifest, verify, store=store, prefix=prefix, parallel=parallel)
    return manifest


def put_same_file(store: Store, key: str, path: Path) -> FileDigest:
    """Store a file; raises AlreadyThere only if the key is taken by other content."""
    try:
        return store.put_file_if_absent(key, path)
    except AlreadyThere:
        digest = digest_file(path)
        if store.digest(key) != digest:
            raise
        return digest


def put_same(store: Store, key: str, body: bytes) -> None:
    """Store an object; raises AlreadyThere only if the key is taken by other content."""
    try:
        store.put_if_absent(key, body)
    except AlreadyThere:
        if store.get(key) != body:
            raise


def _each_file(
    manifest: Manifest, do: Callable[[str, FileDigest], None], *, store: Store, prefix: str, parallel: int
) -> None:
    """Do it with every file, and raise one Corrupt for all that are damaged or missing."""

    def faults_of(path: str) -> tuple[Fault, ...]:
        try:
            do(path, manifest[path])
        except Corrupt as error:
            return error.faults
        except NotThere:
            where, remedy = _where(store, join(prefix, path)), "It was removed: do not use this tree"
            return (Fault(where=where, what="the manifest lists it, but it is not there", remedy=remedy),)
        return ()

    faults = [fault for found in in_parallel(faults_of, manifest, parallel) for fault in found]
    if faults:
        raise Corrupt(faults)


def _committed(store: Store, prefix: str) -> Manifest | None:
    try:
        return read_manifest(store, prefix)
    except NotThere:
        return None


def _require_same_tree(ours: Manifest, stored: Manifest, *, where: str) -> None:
    differing = sorted(path for path in ours.keys() | stored.keys() if ours.get(path) != stored.get(path))
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        what = f"another tree is stored there: it differs in {differing[0]!a}{more}"
        raise AlreadyThere(Fault(where=where, what=what, remedy="Choose another prefix"))


def _is_taken(folder: Path) -> bool:
    with typed_os_errors(str(folder)):
        return folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir())))


def _where(store: Store, key: str) -> str:
    return f"{store.url}/{key}"
