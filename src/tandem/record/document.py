"""Records as JSON: written in one way only, read back as they were or refused in one line."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tandem.errors import Fault
from tandem.spec import canonical_json
from tandem.store import Corrupt

Document = TypeVar("Document", bound=BaseModel)


def to_bytes(document: BaseModel) -> bytes:
    """A record as the store keeps it."""
    value: dict[str, Any] = document.model_dump(mode="json", by_alias=True)
    return canonical_json(value)


def parse_document(kind: type[Document], body: bytes, *, where: str) -> Document:
    """A record of this kind. Raises Corrupt."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        what = f"is not a record that tandem wrote ({error.errors(include_url=False)[0]['msg']})"
        remedy = "Restore it from the bucket's versions or a backup."
        raise Corrupt(Fault(where=where, what=what, remedy=remedy)) from None
