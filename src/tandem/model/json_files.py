"""A checkpoint's JSON files, read within limits: settings, vocabularies, indices; and the numbers in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import from_json

from tandem.errors import BadData, Fault

AGAIN = "Download the checkpoint again."
LARGEST_JSON = 64 * 2**20
"""Bytes: no file of settings or vocabulary that was ever published with an InternVL is larger."""

Size = Annotated[int, Field(ge=1, le=2**24)]
"""A width, a number of tokens or heads; what is allocated by it stays within what a machine can count."""
Layers = Annotated[int, Field(ge=1, le=1024)]


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises BadData if it is missing, or too large to be such a file of a checkpoint."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise BadData(Fault(where=str(path), what=f"cannot be read ({error.strerror})", remedy=AGAIN)) from None
    if len(body) > LARGEST_JSON:
        raise BadData(Fault(where=str(path), what="is far larger than such a file ever is", remedy=AGAIN))
    return body


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises BadData as read_bytes does, and if it is not JSON, or has texts that are none."""
    try:
        return from_json(read_bytes(path))
    except ValueError as error:
        raise BadData(Fault(where=str(path), what=f"is not JSON ({str(error)[:200]})", remedy=AGAIN)) from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadData as read_json does, and if it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BadData(Fault(where=str(path), what="is not a JSON object", remedy=AGAIN))
    return value
