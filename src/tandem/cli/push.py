"""`tandem push`."""

from __future__ import annotations

import sys
from pathlib import Path


def push_folder(path: Path, store_url: str) -> None:
    """Upload a folder under its digest, once, and print its URI."""
    from tandem.store.manifest import digest_folder, tree_digest
    from tandem.store.opening import open_store, probe
    from tandem.store.trees import upload_tree

    store = open_store(store_url)
    probe(store)
    digest = tree_digest(digest_folder(path))
    prefix = f"inputs/sha256/{digest.removeprefix('sha256:')}/"
    manifest = upload_tree(store, path, prefix)
    size = sum(file.size for file in manifest.values())
    sys.stderr.write(f"{len(manifest)} files, {size} bytes, {digest}\n")
    sys.stdout.write(f"{store.url.rstrip('/')}/{prefix}\n")
