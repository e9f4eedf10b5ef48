"""Which names objects may have: the same in a bucket, in a folder and in a manifest."""

from __future__ import annotations

from tandem.errors import BadData, Fault

INCOMING = ".tandem-incoming"
"""Where a folder keeps what is being written; no key may start with it."""

_LONGEST_KEY = 1024
"""Bytes of UTF-8: S3's limit."""

_LONGEST_SEGMENT = 255
"""Bytes of UTF-8: the limit of file names."""


def check_key(key: str, *, where: str) -> None:
    """Refuse a key that is not a plain relative path. Raises BadData, naming where it came from."""
    problem = _problem_with(key)
    if problem is not None:
        raise BadData(
            Fault(
                where=where,
                what=f"{_shown(key)} is not a usable name: {problem}",
                remedy="Names are relative paths such as 'adapter/weights.bin'",
            )
        )


def check_prefix(prefix: str, *, where: str) -> None:
    """Refuse a prefix that no key can start with: the beginning of a key, cut anywhere. Raises BadData."""
    folder, _, _ = prefix.rpartition("/")
    if folder:
        check_key(folder, where=where)
    if prefix.startswith("/") or "\0" in prefix:
        check_key(prefix, where=where)


def check_folder(folder: str, *, where: str) -> None:
    """Refuse what is neither '' nor a usable name with one slash at its end. Raises BadData."""
    if folder:
        check_key(folder.removesuffix("/"), where=where)
    if folder and not folder.endswith("/"):
        remedy = "Names of folders end in a slash"
        raise BadData(Fault(where=where, what=f"{_shown(folder)} is not a folder's name", remedy=remedy))


def join(prefix: str, path: str) -> str:
    """The key of a path below a prefix, which may be empty or end with a slash."""
    folder = prefix.rstrip("/")
    return f"{folder}/{path}" if folder else path


def _problem_with(key: str) -> str | None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    segments = key.split("/")
    if not key:
        return "it is empty"
    if len(encoded) > _LONGEST_KEY:
        return f"it is longer than {_LONGEST_KEY} bytes"
    if key.startswith("/"):
        return "it is absolute"
    if "" in segments:
        return "it has an empty segment"
    if "." in segments or ".." in segments:
        return "it has a segment '.' or '..'"
    if any(len(segment.encode()) > _LONGEST_SEGMENT for segment in segments):
        return f"it has a segment longer than {_LONGEST_SEGMENT} bytes"
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in key):
        return "it has a control character"
    if "\\" in key:
        return "it has a backslash"
    if segments[0] == INCOMING:
        return f"{INCOMING} is reserved"
    return None


def _shown(key: str) -> str:
    text = ascii(key)
    return text if len(text) <= 100 else f"{text[:97]}..."
