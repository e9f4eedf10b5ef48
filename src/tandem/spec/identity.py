"""Which Run a file is: its name and the digest of its spec as submitted."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_json(value: Any) -> bytes:
    """The one way to write a JSON value (RFC 8785), so that equal values have equal digests."""
    return rfc8785.dumps(value)


def sha256_hex(body: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(body).hexdigest()


def spec_digest(spec: dict[str, Any]) -> str:
    """SHA-256 (64 hex digits) of a spec as submitted, before defaults, without `desired`."""
    return sha256_hex(canonical_json({key: value for key, value in spec.items() if key != "desired"}))


def run_id(name: str, spec: dict[str, Any], again: int = 0) -> str:
    """A Run's id: its name, ten hex digits of its spec's digest and, from the first repetition on, its number."""
    suffix = f"-{again}" if again else ""
    return f"{name}-{spec_digest(spec)[:10]}{suffix}"
