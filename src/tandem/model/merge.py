"""Base and adapter as one plain checkpoint, weight by weight: W + (alpha / r) B A, computed in float32.

Layout and names are those of the published `-hf` checkpoints, which transformers and vLLM (its class for
InternVLForConditionalGeneration) load without tandem.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault
from tandem.model.card import CARD_NAME, AdapterCard, CardBase, CardSection, CardTiles, choose_template, read_card
from tandem.model.convert import (
    OUTPUT_LAYER,
    disk_name,
    expect_weights,
    render_chat_template,
    verify,
    write_json,
    written_whole,
)
from tandem.model.convert_weights import SHARD_BYTES, Stored, list_weights, read_header, read_tensor, write_weights
from tandem.model.info import INDEX, read_model_info
from tandem.model.json_files import read_object
from tandem.model.loading import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, load_tokenizer

if TYPE_CHECKING:
    import torch

_ANOTHER = "Merge an adapter that tandem trained; others can be merged with peft's merge_and_unload."
_PAIR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_NOT_COPIED = (INDEX, CARD_NAME, "chat_template.json", "chat_template.jinja")

Nothing = Annotated[list[Any], Field(max_length=0)] | Annotated[dict[str, Any], Field(max_length=0)] | None


class MergedCard(CardSection):
    """What stands in tandem.json of a merged checkpoint: how to ask it, and what it was made of."""

    schema_: Literal["tandem.dev/merged/v1"] = Field(default="tandem.dev/merged/v1", alias="schema")
    """Name and version of this format."""
    tiles: CardTiles
    """How images were cut in training."""
    template: str
    """Name of the prompt template."""
    system_message: str
    """The template's system message for samples that bring none; the chat template has it, too."""
    answer_template: str
    """How an answer ends: what stands before {answer} is the marker."""
    base: CardBase
    """What the adapter was trained on."""
    adapter: CardBase
    """The adapter's files."""
    seed: int
    """Of the Run that trained the adapter."""


class LoraSettings(BaseModel):
    """adapter_config.json: a plain LoRA, and nothing that would change how its matrices act."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=2**16)]
    lora_alpha: float
    use_rslora: bool = False
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    lora_bias: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    bias: Literal["none"] = "none"
    rank_pattern: Nothing = None
    alpha_pattern: Nothing = None
    modules_to_save: Nothing = None
    layer_replication: Nothing = None
    target_parameters: Nothing = None
    trainable_token_indices: Nothing = None

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two matrices that change one weight of the base."""

    down: Stored
    """lora_A, [r, in]."""
    up: Stored
    """lora_B, [out, r]."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A weight of the merged checkpoint, as large and of the same type as in the base."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Stored
    pair: Pair | None


def merge_adapter(
    base: Path,
    adapter: Path,
    destination: Path,
    *,
    base_digest: str,
    adapter_origin: CardBase,
    shard_bytes: int = SHARD_BYTES,
) -> MergedCard:
    """Write base and adapter as one native checkpoint into the folder `destination`; equal input, equal bytes.

    Holds one weight in memory at a time. `destination` appears whole or not at all. `base_digest` is that of the base's
    files: the adapter's card must name it. Raises BadConfiguration for places that cannot be used and a base in the
    remote-code format, BadData with everything that is wrong with base and adapter.
    """
    read_model_info(base)
    card = read_card(adapter)
    if card.base.digest != base_digest:
        what = f"was trained on {card.base.source} ({card.base.digest}), not on this base ({base_digest})"
        raise BadData(Fault(where=str(adapter), what=what, remedy="Give the base model that its tandem.json names."))
    template = choose_template(card)
    tokenizer: Any = load_tokenizer(base)
    stored = list_weights(base)
    _refuse_incomplete(base, stored)
    scale, pairs = _read_pairs(adapter)
    planned = _plan(base, stored, pairs)
    merged = _describe(card, adapter_origin)

    def make(weight: Planned) -> torch.Tensor:
        return _merge(read_tensor(weight.source), weight.pair, scale)

    with written_whole(destination) as folder:
        for file in _list_settings(base):
            shutil.copyfile(file, folder / file.name)
        write_weights(folder, planned, make, shard_bytes=shard_bytes)
        begins = bool(getattr(tokenizer, "add_bos_token", False))
        rendered = render_chat_template(template.system_message, begins=begins)
        (folder / "chat_template.jinja").write_text(rendered, encoding="utf-8")
        write_json(folder / CARD_NAME, merged.model_dump(mode="json", by_alias=True))
        verify(folder, {weight.name: weight.shape for weight in planned})
        load_tokenizer(folder)
    return merged


def _describe(card: AdapterCard, adapter: CardBase) -> MergedCard:
    return MergedCard(
        tiles=card.tiles,
        template=card.template,
        system_message=card.system_message,
        answer_template=card.answer_template,
        base=card.base,
        adapter=adapter,
        seed=card.seed,
    )


def _merge(weight: torch.Tensor, pair: Pair | None, scale: float) -> torch.Tensor:
    if pair is None:
        return weight
    change = read_tensor(pair.up).float() @ read_tensor(pair.down).float()
    return change.mul_(scale).add_(weight).to(weight.dtype)


def _refuse_incomplete(base: Path, stored: list[Stored]) -> None:
    """Compare names and shapes with what transformers' model of this config.json has."""
    names = {disk_name(weight.name): weight.shape for weight in stored}
    settings = read_object(base / "config.json")
    tied = OUTPUT_LAYER not in names and bool(settings.get("tie_word_embeddings", True))
    expected = expect_weights(settings, tied=tied, where=base)
    astray = sorted({name for name, _ in names.items() ^ expected.items()})
    if astray:
        what = (
            f"{len(astray)} weights are missing, left over or of another shape than config.json says, {astray[0]} first"
        )
        raise BadData(Fault(where=str(base), what=what, remedy="Download the checkpoint again."))


def _read_pairs(adapter: Path) -> tuple[float, dict[str, Pair]]:
    """The scale, and the pairs of matrices by the name of the weight that each changes."""
    path = adapter / ADAPTER_SETTINGS
    try:
        settings = LoraSettings.model_validate(read_object(path))
    except ValidationError as error:
        raise BadData(
            [
                Fault(where=f"{path}: {'.'.join(map(str, item['loc'][:1]))}", what=item["msg"], remedy=_ANOTHER)
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None
    sides: dict[str, dict[str, Stored]] = {}
    unknown = []
    for weight in read_header(adapter / ADAPTER_WEIGHTS):
        found = _PAIR.match(weight.name)
        if found is None:
            unknown.append(weight.name)
        else:
            sides.setdefault(disk_name(f"{found['module']}.weight"), {})[found["side"]] = weight
    single = sorted(name for name, pair in sides.items() if len(pair) != 2)
    faults = [
        Fault(
            where=str(adapter / ADAPTER_WEIGHTS), what=f"{len(names)} weights {what}, {names[0]} first", remedy=_ANOTHER
        )
        for names, what in ((unknown, "are no matrix of a LoRA"), (single, "have one of the two matrices only"))
        if names
    ]
    if not sides and not faults:
        faults = [Fault(where=str(adapter / ADAPTER_WEIGHTS), what="holds no matrix of a LoRA", remedy=_ANOTHER)]
    if faults:
        raise BadData(faults)
    return settings.scale, {name: Pair(down=pair["A"], up=pair["B"]) for name, pair in sides.items()}


def _plan(base: Path, stored: list[Stored], pairs: dict[str, Pair]) -> list[Planned]:
    names = {disk_name(weight.name) for weight in stored}
    homeless = sorted(set(pairs) - names)
    planned = [
        Planned(
            name=disk_name(weight.name),
            dtype=weight.dtype,
            shape=weight.shape,
            source=weight,
            pair=pairs.get(disk_name(weight.name)),
        )
        for weight in stored
    ]
    unfitting = [weight.name for weight in planned if weight.pair is not None and not _fits(weight.shape, weight.pair)]
    faults = [
        Fault(
            where=str(base),
            what=f"{len(found)} weights of the adapter {what}, {found[0]} first",
            remedy="Give the base model that the adapter's tandem.json names.",
        )
        for found, what in (
            (homeless, "have no place in this base"),
            (unfitting, "have another shape than in this base"),
        )
        if found
    ]
    if faults:
        raise BadData(faults)
    return planned


def _fits(shape: tuple[int, ...], pair: Pair) -> bool:
    down, up = pair.down.shape, pair.up.shape
    return len(down) == len(up) == len(shape) == 2 and (up[0], down[1]) == shape and up[1] == down[0]


def _list_settings(base: Path) -> Iterator[Path]:
    """The base's small files: settings and tokenizer, never code."""
    for pattern in ("*.json", "*.txt", "*.model"):
        yield from (path for path in sorted(base.glob(pattern)) if path.is_file() and path.name not in _NOT_COPIED)
