"""From a reference in a Run file to a file or folder on this machine."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.store import NotThere
from tandem.store.files import typed_os_errors

SCHEMES = ("s3://", "file://")
"""How an input in a store begins; `tandem push` prints such URIs."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_WEIGHTS_AND_SETTINGS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Finds inputs; what comes from elsewhere is brought once and kept in the cache folder."""

    folder: Path
    """What relative paths are relative to: the Run file's folder."""
    cache: Path
    """Where trees from s3:// URIs are kept."""

    def resolve(self, reference: str, revision: str | None = None) -> Path | None:
        """The input on this machine; None if it is a path that does not exist here.

        Raises Unavailable when the hub or bucket is away, BadConfiguration when it has no such thing.
        """
        if reference.startswith(SCHEMES):
            return fetch_tree_member(reference, self.cache)
        try:
            path = self.locate(reference)
            if path.exists():
                return path
        except (OSError, RuntimeError) as error:  # ~ of a user who is not there, a loop of links, a name far too long
            what = f"cannot be looked for ({getattr(error, 'strerror', None) or error})"
            raise BadConfiguration(Fault(where=reference, what=what, remedy="Mend the path.")) from None
        if revision is not None and _HUB_ID.match(reference):
            return fetch_from_hub(reference, revision)
        return None

    def locate(self, reference: str) -> Path:
        """Where a path in the Run file points, whether or not something is there."""
        return (self.folder / Path(reference).expanduser()).resolve()


def fetch_tree_member(uri: str, cache: Path) -> Path:
    """Bring the tree that holds this s3:// or file:// URI and return the member's path on this machine.

    The tree is the nearest prefix above the URI that has a manifest.json, as `tandem push` writes it; every
    file is verified against it. Raises BadConfiguration if there is none.
    """
    from tandem.store.manifest import tree_digest
    from tandem.store.opening import open_store
    from tandem.store.trees import download_tree, read_manifest

    scheme, _, rest = uri.partition("://")
    place, _, key = rest.partition("/")
    store = open_store(f"{scheme}://{place}/")
    if scheme == "file":
        key = unquote(key)
    parts = key.strip("/").split("/")
    for depth in range(len(parts), 0, -1):
        prefix = "/".join(parts[:depth]) + "/"
        try:
            manifest = read_manifest(store, prefix)
        except NotThere:
            continue
        folder = cache / "trees" / tree_digest(manifest).removeprefix("sha256:")
        if not folder.exists():
            download_tree(store, prefix, folder)
        return folder.joinpath(*parts[depth:])
    raise BadConfiguration(
        Fault(
            where=uri,
            what="has no manifest.json at or above it",
            remedy="Put the files there with `tandem push PATH --store URL` and use the URI that it prints.",
        )
    )


def fetch_from_hub(hub_id: str, revision: str) -> Path:
    """Bring a model at one commit from the hub (or its mirror, HF_ENDPOINT) into the hub's own cache.

    Raises BadConfiguration if the hub has no such model or revision, Unavailable if it cannot be reached or goes away
    while files come, and the typed errors of typed_os_errors, with its cache's folder, for the disk.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    with typed_os_errors(HF_HUB_CACHE):
        return _fetch_snapshot(hub_id, revision)


def _fetch_snapshot(hub_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined] # whichever client it has

    where = f"{hub_id}@{revision}"
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_WEIGHTS_AND_SETTINGS))
    except HFValidationError:
        raise BadConfiguration(
            Fault(
                where=where,
                what="is neither a path on this machine nor an id that the hub can have",
                remedy="Mend the path, or the id: names of at most 96 ASCII letters, digits, '-', '_' and '.', without "
                "'--' and '..', that neither begin nor end with '-' or '.' nor end with '.git'.",
            )
        ) from None
    except (RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError) as error:
        raise BadConfiguration(
            Fault(
                where=where,
                what=f"the hub refuses it ({type(error).__name__})",
                remedy="Mend the id or the revision, or set HF_TOKEN for a gated model.",
            )
        ) from None
    except (OSError, ClientError) as error:
        if _is_of_the_disk(error):
            raise
        raise Unavailable(
            Fault(
                where=where,
                what=f"the hub cannot be reached ({type(error).__name__})",
                remedy="Set HF_ENDPOINT to a mirror, or give a folder or an s3:// URI as the model's source.",
            )
        ) from None


def _is_of_the_disk(error: Exception) -> bool:
    """Whether the system says it of a file, not of a connection."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK)


def require(path: Path | None, place: str, text: str) -> Path:
    """The path, or BadConfiguration that names the place in the Run file."""
    if path is None:
        raise BadConfiguration(
            Fault(
                where=f"{place}: {text}",
                what="is not on this machine",
                remedy="Mend the path (relative paths start at the Run file's folder); a hub id needs a revision.",
            )
        )
    return path
