"""From a sample to what a server is asked: the question's texts and images in their order, images as data URLs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.evaluate.prepare import MeasuredImage, prepare_each
from tandem.evaluate.records import EvalSample
from tandem.model.images import load_encoded
from tandem.model.prompt import INTERNVL2_5, Turn, place_images
from tandem.spec import EndpointSpec


@dataclass(frozen=True, kw_only=True)
class AskedSample:
    """A sample whose placeholders fit its images, and whose images have been looked at."""

    sample: EvalSample
    place: str
    """Evaluation file and sample, for messages."""
    images: tuple[Path, ...]


def prepare_asked(samples: Sequence[EvalSample], *, data: Path, images: Path) -> list[AskedSample]:
    """Look at every image and every placeholder, so that nothing turns out to be missing in the middle.

    Raises BadData with all faults of all samples at once, Unavailable if the file system fails.
    """

    def prepare(sample: EvalSample, place: str, measured: Sequence[MeasuredImage]) -> AskedSample:
        split_question(sample.question, len(measured), place=place)
        return AskedSample(sample=sample, place=place, images=tuple(path for path, _ in measured))

    return prepare_each(samples, prepare, data=data, images=images)


def build_request(asked: AskedSample, endpoint: EndpointSpec, *, max_new_tokens: int) -> dict[str, Any]:
    """The parameters of a chat completion, ready for JSON. Raises BadData if an image can no longer be read."""
    system = [] if endpoint.system_message is None else [{"role": "system", "content": endpoint.system_message}]
    request: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [*system, {"role": "user", "content": _write_question(asked)}],
        "max_tokens": max_new_tokens,
        "temperature": endpoint.temperature,
    }
    return request if endpoint.seed is None else request | {"seed": endpoint.seed}


def _write_question(asked: AskedSample) -> str | list[dict[str, Any]]:
    if not asked.images:
        return asked.sample.question
    urls = (_write_image(path, asked.place) for path in asked.images)
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(split_question(asked.sample.question, len(asked.images), place=asked.place)):
        if number:
            parts.append(next(urls))
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def split_question(question: str, images: int, *, place: str) -> Sequence[str]:
    """The texts before, between and after the images: one more than there are images, each possibly empty.

    A line break right after a placeholder is left out, for InternVL's chat template writes one after each image.
    Raises BadData if placeholders and images do not fit, or if the question holds a control token.
    """
    (turn,) = place_images([Turn(role="user", text=question)], images, template=INTERNVL2_5, place=place)
    first, *others = turn.text.split(INTERNVL2_5.placeholder) if images else [turn.text]
    return [first, *(text.removeprefix("\n") for text in others)]


def _write_image(path: Path, place: str) -> dict[str, Any]:
    kind, body = load_encoded(path, place=place)
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(body).decode()}"}}
