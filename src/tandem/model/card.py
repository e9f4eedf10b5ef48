"""The card that an adapter carries: how it was trained to be asked, so that evaluation asks the same way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault
from tandem.model.prompt import INTERNVL2_5, TEMPLATES, Template

CARD_NAME = "tandem.json"
_LARGEST = 2**20
"""Bytes; what is cut off there is no JSON."""


class CardSection(BaseModel):
    """A part of the card: complete, immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardTiles(CardSection):
    """The tile settings of training, by the names of the Run file's tiles section."""

    max: int = Field(ge=1, le=128)
    """Tiles (count), the thumbnail not included."""
    rule: Literal["perSample", "perImage"]
    """Whether `max` is shared among a sample's images or given to each."""
    thumbnail: bool
    """Whether an image of more than one tile gets a thumbnail too."""


class CardBase(CardSection):
    """The model that the adapter belongs to."""

    source: str
    """As the Run file named it."""
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    """Digest of its files, as `tandem check` prints it."""


class AdapterCard(CardSection):
    """What stands in tandem.json beside the adapter's weights."""

    schema_: Literal["tandem.dev/adapter/v1"] = Field(default="tandem.dev/adapter/v1", alias="schema")
    """Name and version of this format."""
    tiles: CardTiles
    """How images were cut in training."""
    template: str = Field(min_length=1)
    """Name of the prompt template, for example internvl2_5."""
    system_message: str
    """The template's system message for samples that bring none."""
    answer_template: str = Field(pattern=r"\S.*\{answer\}")
    """How an answer ends: what stands before {answer} is the marker."""
    base: CardBase
    """What the adapter was trained on."""
    seed: int
    """The Run's seed."""


def choose_template(card: AdapterCard | None) -> Template:
    """The template that the adapter was trained with; without an adapter, InternVL's own.

    Raises BadData if this version of tandem does not know the card's template.
    """
    if card is None:
        return INTERNVL2_5
    if card.template not in TEMPLATES:
        raise BadData(
            Fault(
                where=CARD_NAME,
                what=f"the adapter's template {card.template!r} is not one of {', '.join(sorted(TEMPLATES))}",
                remedy="Use the version of tandem that trained the adapter.",
            )
        )
    return replace(TEMPLATES[card.template], system_message=card.system_message)


def write_card(folder: Path, card: AdapterCard) -> None:
    """Write the card into the adapter's folder; the same card gives the same bytes."""
    body = json.dumps(card.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=2) + "\n"
    (folder / CARD_NAME).write_text(body, encoding="utf-8")


def read_card(folder: Path) -> AdapterCard:
    """Read the card of an adapter. Raises BadData with every fault if it is missing or not valid."""
    path = folder / CARD_NAME
    try:
        with path.open("rb") as file:
            body = file.read(_LARGEST + 1)
    except OSError as error:
        raise BadData(
            Fault(
                where=str(path),
                what=f"the adapter's card cannot be read ({error.strerror})",
                remedy="Use an adapter that tandem trained, or write its card by hand (see docs/concepts.md).",
            )
        ) from None
    try:
        return AdapterCard.model_validate_json(body)
    except ValidationError as error:
        raise BadData(
            [
                Fault(
                    where=f"{path}: {'.'.join(str(part) for part in item['loc']) or 'the whole file'}",
                    what=item["msg"],
                    remedy="Take the card again from the execution that trained the adapter.",
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None
