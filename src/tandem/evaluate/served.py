"""Who generated the texts of an endpoint, as the server itself says with each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import NonNegativeInt

from tandem.evaluate.records import Prediction, Record


class TextSource(Record):
    """One model, in one configuration, as the endpoint named it."""

    model: str | None
    """The model's name as the server returned it."""
    fingerprint: str | None
    """The server's own fingerprint of its configuration."""
    texts: NonNegativeInt
    """How many it generated."""


def list_sources(predictions: Iterable[Prediction]) -> tuple[TextSource, ...]:
    """Who generated texts in an endpoint's name, most texts first."""
    served = Counter((each.served_model, each.fingerprint) for each in predictions)
    ordered = sorted(served.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return tuple(TextSource(model=model, fingerprint=mark, texts=count) for (model, mark), count in ordered)
