"""What a Kubernetes API server answers, read into objects and typed errors, whatever it sends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tandem.control.api import AlreadyExists, Busy, Conflict, Expired, Forbidden, Kind, NotFound, Object, Refused
from tandem.errors import BadConfiguration, Fault, TandemError

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of one event of a watch."""

AWAY = "See that the cluster is up and that the network leads there."
LOGIN = "Log in again, or choose another context or kubeconfig."


def error_of(
    code: int, status: Mapping[str, Any], headers: Mapping[str, str], where: str, *, creates: bool = False
) -> TandemError:
    """What an answer without success means, as a type; `creates`: the request was to make an object."""
    what = shorten(status.get("message") or f"HTTP {code}")
    reason = status.get("reason")
    match code:
        case 401:
            return BadConfiguration(Fault(where=where, what=f"not logged in ({what})", remedy=LOGIN))
        case 403 if "exceeded quota" in what:  # Kubernetes says it in words only
            return Busy(Fault(where=where, what=what, remedy="Wait until quota is free, or ask for more."))
        case 403:
            remedy = "Ask the platform team for this permission."
            return Forbidden(Fault(where=where, what=f"is not permitted ({what})", remedy=remedy))
        case 404:
            return NotFound(Fault(where=where, what=f"is not there ({what})", remedy="Check name and namespace."))
        case 409 if creates and reason in ("AlreadyExists", None):
            return AlreadyExists(Fault(where=where, what="is there already", remedy="Choose another name."))
        case 409:
            return Conflict(Fault(where=where, what=f"changed meanwhile ({what})", remedy="Try again."))
        case 410:
            return Expired(Fault(where=where, what="the server has forgotten this version", remedy="List again."))
        case 408 | 429 | 500 | 502 | 503 | 504:
            after = headers.get("Retry-After", "")
            fault = Fault(where=where, what=f"the cluster has trouble (HTTP {code}: {what})", remedy=AWAY)
            return Busy(fault, after=float(after) if after.isdigit() else None)
        case _ if code >= 500:
            return Busy(Fault(where=where, what=f"the cluster has trouble (HTTP {code}: {what})", remedy=AWAY))
        case _:
            return Refused(Fault(where=where, what=f"is refused ({what})", remedy="Correct it, or the cluster."))


def read_lines(answer: Any) -> Iterator[bytes]:
    """The events of a watch; the end of a line that is too long ends them."""
    kept = b""
    while piece := answer.read1(65536):
        *whole, kept = (kept + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(kept) > LONGEST_LINE:
            return


def parse_object(body: bytes, where: str) -> Object:
    """An object of Kubernetes. Raises Busy: what is none comes from something between here and the server."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise no_object(body, where)
    return value


def no_object(body: bytes, where: str) -> Busy:
    """That an answer is no object."""
    what = f"the server's answer is not an object of Kubernetes ({body[:60]!r})"
    return Busy(Fault(where=where, what=what, remedy=AWAY))


def mapping(value: Any) -> Object:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def parse_status(body: bytes) -> Object:
    """What an answer without success says, as far as it can be read."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {"message": body[:200].decode("utf-8", "replace")}
    return value if isinstance(value, dict) else {}


def name_place(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    """An object or a kind, as messages name it."""
    place = "/".join(part for part in (namespace if kind.namespaced else None, name) if part)
    return f"{kind.kind} {place}" if place else kind.plural


def shorten(error: object) -> str:
    """An error in one line, of at most 400 characters."""
    return " ".join(str(error).split())[:400]
