"""How InternVL's prompts are written: the template, the place of the images, the token ids.

Rules and strings are those of OpenGVLab/InternVL 2410d1d (`conversation.py`, `preprocess_internvl2_5` in
`train/dataset.py`); `tests/golden/internvl` holds values made by it and its README the few deviations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from tandem.errors import BadConfiguration, BadData, Fault

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; `<image>` in a user's text marks the place of an image."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class Template:
    """The strings that a prompt is made of; an adapter's card carries its name and system message."""

    name: str
    system_message: str
    """Stands first unless the conversation has a system turn of its own."""
    turn_start: str = "<|im_start|>"
    turn_end: str = "<|im_end|>"
    image_start: str = "<img>"
    image_context: str = "<IMG_CONTEXT>"
    """Repeated once for each image token; the model puts the tiles' features in its place."""
    image_end: str = "</img>"
    placeholder: str = "<image>"

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Strings that are single tokens with a meaning of their own, and may not stand in a text."""
        return (self.turn_start, self.turn_end, self.image_start, self.image_context, self.image_end)

    def to_dict(self) -> dict[str, str]:
        """Return all fields, ready for JSON; `Template(**fields)` reads them back."""
        return asdict(self)


INTERNVL2_5 = Template(
    name="internvl2_5",
    system_message="你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",  # noqa: RUF001
)
"""ChatML, as InternVL2.5 and InternVL3 were trained with."""

TEMPLATES = {template.name: template for template in (INTERNVL2_5,)}


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer, whose vocabulary stays as it is once it is used."""

    def __hash__(self) -> int:
        """Identity: what it makes of some texts is remembered."""
        ...

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Return a mapping whose `input_ids` has one list for each text."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """Return a token's id."""
        ...


def turn_faults(turns: Sequence[Turn], images: int, *, template: Template, place: str) -> list[Fault]:
    """List what is wrong with a conversation over this many images; `place` is its file and line."""
    faults = []

    def add(what: str, remedy: str) -> None:
        faults.append(Fault(where=place, what=what, remedy=remedy))

    if not any(turn.role == "user" for turn in turns):
        add("the conversation has no human turn", "Add the question.")
    for index, turn in enumerate(turns):
        if turn.role == "system" and index > 0:
            add(f"turn {index + 1} is a system turn", "A system turn can only be the first.")
        if turn.role == "system" and template.placeholder in turn.text:
            add(f"the system turn holds {template.placeholder}", "Images belong into human turns.")
        for token in template.control_tokens:
            if token in turn.text:
                add(
                    f"the text of turn {index + 1} holds the control token {token}",
                    "Remove it: the model would read it as structure, not as text.",
                )
    found = _count_placeholders(turns, template)
    if found != images and not (images == 1 and found == 0):
        add(
            f"{found} {template.placeholder} in the human turns, but {images} image(s)",
            f"Write {template.placeholder} once for each image, where it belongs.",
        )
    return faults


def _count_placeholders(turns: Sequence[Turn], template: Template) -> int:
    return sum(turn.text.count(template.placeholder) for turn in turns if turn.role == "user")


def place_images(
    turns: Sequence[Turn], images: int, *, template: Template = INTERNVL2_5, place: str = "prompt"
) -> tuple[Turn, ...]:
    """Return the turns with one placeholder for each image, in the images' order.

    A single image without placeholder goes in front of the first human turn. Placing twice changes nothing.
    Raises BadData with everything that `turn_faults` finds.
    """
    faults = turn_faults(turns, images, template=template, place=place)
    if faults:
        raise BadData(faults)
    placed = list(turns)
    if images == 1 and _count_placeholders(turns, template) == 0:
        first = next(index for index, turn in enumerate(turns) if turn.role == "user")
        placed[first] = replace(placed[first], text=f"{template.placeholder}\n{placed[first].text}")
    return tuple(placed)


def expand_images(turns: Sequence[Turn], image_tokens: Sequence[int], *, template: Template) -> tuple[Turn, ...]:
    """Replace the n-th placeholder by `<img>`, n-th number of `<IMG_CONTEXT>`, `</img>`.

    The turns are as `place_images` returns them.
    """
    numbers = iter(image_tokens)
    expanded = []
    for turn in turns:
        if turn.role != "user":
            expanded.append(turn)
            continue
        first, *others = turn.text.split(template.placeholder)
        text = first + "".join(
            f"{template.image_start}{template.image_context * next(numbers)}{template.image_end}{other}"
            for other in others
        )
        expanded.append(replace(turn, text=text))
    return tuple(expanded)


@dataclass(frozen=True, kw_only=True)
class EncodedTurn:
    """One turn's token ids, its header and the newline after it included."""

    role: Role
    ids: list[int]
    header: int
    """How many ids at the front are the header (`<|im_start|>assistant` and a newline), BOS not counted."""


def encode_turns(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    image_tokens: Sequence[int],
    *,
    template: Template = INTERNVL2_5,
    place: str = "prompt",
) -> tuple[EncodedTurn, ...]:
    """Tokenize a conversation turn by turn, the default system message first if it has none of its own.

    `image_tokens` is the number of tokens for each image. A tokenizer that adds BOS gets it before the first turn.
    Raises BadData for turns or placeholders that do not fit, BadConfiguration if the tokenizer splits
    the image token.
    """
    placed = place_images(turns, len(image_tokens), template=template, place=place)
    expanded = expand_images(placed, image_tokens, template=template)
    fixed = _encode_fixed(tokenizer, template)
    ids: list[list[int]] = tokenizer([_write(turn, template) for turn in expanded], add_special_tokens=False)[
        "input_ids"
    ]
    if expanded[0].role != "system":
        expanded = (Turn(role="system", text=template.system_message), *expanded)
        ids = [list(fixed.system), *ids]
    _check_image_tokens(tokenizer, ids, sum(image_tokens), template)
    ids[0] = _beginning(tokenizer) + ids[0]
    return tuple(
        EncodedTurn(role=turn.role, ids=turn_ids, header=fixed.headers[turn.role])
        for turn, turn_ids in zip(expanded, ids, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class _Fixed:
    """What a tokenizer makes of the texts that every conversation has."""

    headers: dict[str, int]
    """The length of each role's."""
    system: tuple[int, ...]
    """The default system turn."""


@functools.lru_cache(maxsize=8)
def _encode_fixed(tokenizer: Tokenizer, template: Template) -> _Fixed:
    """Once for a tokenizer: of short conversations it would be most of the work."""
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    texts = [_write(Turn(role="system", text=template.system_message), template)]
    texts += [_header(role, template) for role in roles]
    system, *headers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return _Fixed(headers=dict(zip(roles, map(len, headers), strict=True)), system=tuple(system))


def _write(turn: Turn, template: Template) -> str:
    return f"{_header(turn.role, template)}{turn.text}{template.turn_end}\n"


def _header(role: str, template: Template) -> str:
    return f"{template.turn_start}{role}\n"


def _beginning(tokenizer: Any) -> list[int]:
    return [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []


def _check_image_tokens(tokenizer: Tokenizer, ids: list[list[int]], expected: int, template: Template) -> None:
    context = tokenizer.convert_tokens_to_ids(template.image_context)
    found = sum(turn_ids.count(context) for turn_ids in ids)
    if found != expected:
        raise BadConfiguration(
            Fault(
                where="tokenizer",
                what=f"{expected} {template.image_context} became {found} tokens of that name",
                remedy=f"Use the tokenizer of an InternVL model: it must know {template.image_context} as one token.",
            )
        )


def encode_prompt(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    tiles_per_image: Sequence[int],
    *,
    tokens_per_tile: int,
    template: Template = INTERNVL2_5,
    place: str = "prompt",
) -> list[int]:
    """Tokenize a conversation and the header of the answer that the model is to write.

    Raises as `encode_turns`.
    """
    image_tokens = [tokens_per_tile * tiles for tiles in tiles_per_image]
    encoded = encode_turns(tokenizer, turns, image_tokens, template=template, place=place)
    header: list[int] = tokenizer([_header("assistant", template)], add_special_tokens=False)["input_ids"][0]
    return [*(token for turn in encoded for token in turn.ids), *header]
