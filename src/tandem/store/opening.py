"""From an address to a store, and one look at whether that store keeps its word."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.store.contract import AlreadyThere, Store
from tandem.store.directory import Directory
from tandem.store.retrying import PATIENT, Retrying, seldom

PATIENCE = "TANDEM_STORE_RETRY_SECONDS"
"""Environment variable: how long a bucket that does not answer is waited for, in seconds; 120 where it is not set."""

BRIEF_SECONDS = 15.0
"""How long it is waited for at most where nothing is lost by giving up: checks, lists, logs."""

_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")

_PROBE = ".probe/put-if-absent"
_FIRST = b"Written once, by the first look at this store.\n"
_SECOND = b"A server that keeps put-if-absent never stores this.\n"


def open_store(url: str, *, brief: bool = False, say: Callable[[str], None] | None = None) -> Store:
    """Open 'folder', '/folder', 'file:///folder' or 's3://bucket/prefix'; asks the server nothing.

    brief: where someone waits for a mere look, a bucket that does not answer is waited for BRIEF_SECONDS at most.
    say: told now and then in one line that a bucket does not answer and is waited for.
    Raises BadConfiguration for any other address, for AWS settings that cannot be used, and for a wrong PATIENCE.
    """
    if url.strip() and ":" not in url:
        return Directory(Path(url))
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    if scheme == "file":
        return _open_folder(url, host=place, path=unquote(path))
    if scheme == "s3":
        return _open_bucket(url, bucket=place, prefix=path.strip("/"), retrying=_read_patience(brief=brief, say=say))
    raise _not_an_address(url, "it names neither a folder nor a bucket")


def probe(store: Store) -> None:
    """Write one small object twice: the second write must be refused and change nothing.

    The key is always the same, since a store deletes nothing: probes do not pile up. Raises
    BadConfiguration if the server ignores put-if-absent, and whatever else keeps the store from being used.
    """
    with suppress(AlreadyThere):
        store.put_if_absent(_PROBE, _FIRST)
    try:
        store.put_if_absent(_PROBE, _SECOND)
    except AlreadyThere:
        if store.get(_PROBE) == _FIRST:
            return
    what = "the server ignores put-if-absent (If-None-Match: *), so results could be overwritten"
    remedy = f"Use a server with conditional writes; after an upgrade delete {_PROBE} once"
    raise BadConfiguration(Fault(where=store.url, what=what, remedy=remedy))


def _open_folder(url: str, *, host: str, path: str) -> Store:
    if host not in ("", "localhost"):
        raise _not_an_address(url, f"{host!r} is another machine; three slashes follow file:")
    if "\0" in path:
        raise _not_an_address(url, "it has a null character")
    return Directory(Path("/") / path)


def _open_bucket(url: str, *, bucket: str, prefix: str, retrying: Retrying) -> Store:
    from tandem.store.s3 import Bucket, connect

    if not _BUCKET_NAME.fullmatch(bucket):
        raise _not_an_address(url, f"{bucket!r} is not a bucket's name")
    try:
        return Bucket(connect(), bucket, prefix, retrying=retrying)
    except BadData as error:
        raise _not_an_address(url, error.faults[0].what) from error


def _read_patience(*, brief: bool, say: Callable[[str], None] | None) -> Retrying:
    text = os.environ.get(PATIENCE)
    try:
        seconds = PATIENT.budget_seconds if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        remedy = "Write a number of seconds, such as 600, or leave it out: 120"
        raise BadConfiguration(Fault(where=PATIENCE, what=f"{text!r:.40} is no length of time", remedy=remedy))
    patience = Retrying(budget_seconds=min(seconds, BRIEF_SECONDS) if brief else seconds)
    return patience if say is None else replace(patience, say=seldom(say))


def _not_an_address(url: str, what: str) -> BadConfiguration:
    remedy = "Write ./folder, /folder, file:///folder or s3://bucket/prefix"
    return BadConfiguration(Fault(where=ascii(url), what=f"not a store's address: {what}", remedy=remedy))
