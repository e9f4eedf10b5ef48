"""Objects written once: a bucket or a folder, with one contract."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tandem.store.contract import AlreadyThere, Corrupt, Entry, FileDigest, Manifest, NotThere, Store

if TYPE_CHECKING:
    from tandem.store.directory import Directory
    from tandem.store.manifest import digest_folder, tree_digest
    from tandem.store.opening import open_store, probe
    from tandem.store.trees import download_tree, read_manifest, upload_tree, verify_tree

__all__ = [
    "AlreadyThere",
    "Corrupt",
    "Directory",
    "Entry",
    "FileDigest",
    "Manifest",
    "NotThere",
    "Store",
    "digest_folder",
    "download_tree",
    "open_store",
    "probe",
    "read_manifest",
    "tree_digest",
    "upload_tree",
    "verify_tree",
]

_HOMES = {
    "Directory": "directory",
    "digest_folder": "manifest",
    "download_tree": "trees",
    "open_store": "opening",
    "probe": "opening",
    "read_manifest": "trees",
    "tree_digest": "manifest",
    "upload_tree": "trees",
    "verify_tree": "trees",
}
"""Loaded on first use: pydantic, and behind it boto3, cost more than `tandem --help` may take."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
