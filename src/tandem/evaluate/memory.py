"""What to do when the device's memory has run out."""

from __future__ import annotations

from tandem.errors import Fault, OutOfMemory
from tandem.evaluate.prepare import PreparedSample


def does_not_fit(sample: PreparedSample, *, max_new_tokens: int) -> OutOfMemory:
    """The error for a sample that does not even fit alone."""
    return OutOfMemory(
        Fault(
            where=sample.place,
            what=f"does not fit into the device's memory alone: {sample.prompt_tokens} prompt tokens with "
            f"{sample.tiles} tiles, and {max_new_tokens} new ones",
            remedy="Lower the evaluation's tiles or maxNewTokens, or take a device with more free memory.",
        )
    )
