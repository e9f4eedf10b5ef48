"""Which settings an evaluation is generated with, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.job import GenerateJob, ShardJob
from tandem.evaluate.prepare import BUDGET_RULES, PromptSettings
from tandem.model.card import AdapterCard, choose_template
from tandem.model.info import ModelInfo
from tandem.spec import FINAL_ANSWER, TilesSpec, find_marker

Origin = Literal["evaluation", "adapter", "training", "default"]


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """The prompt's settings, and what the record says about them."""

    prompt: PromptSettings
    tiles: TilesSpec
    tiles_from: Origin
    answer_template: str
    answer_template_from: Origin

    @property
    def marker(self) -> str:
        """What ends the reasoning and begins the answer."""
        return find_marker(self.answer_template)


def resolve_settings(job: GenerateJob, info: ModelInfo, card: AdapterCard | None) -> GenerateSettings:
    """Settle tiles, template and marker: the evaluation's own, else the adapter's, else the training's in this Run.

    Raises BadConfiguration with all faults at once: no tiles anywhere, an adapter of another base model, more new
    tokens than the model has positions. Raises BadData for a template that is not known.
    """
    tiles, tiles_from = _choose_tiles(job, card)
    template, template_from = choose_answer_template(job, card)
    room = info.text_positions - job.eval.max_new_tokens
    faults = adapter_faults(job, card)
    if tiles is None:
        faults.append(
            Fault(
                where=f"evaluation {job.eval.name!r}: tiles",
                what="nothing says how images are cut: there is no adapter and no training in this Run",
                remedy="Add tiles to the evaluation, for example `tiles: {max: 6}`.",
            )
        )
    if room < 1:
        faults.append(
            Fault(
                where=f"evaluation {job.eval.name!r}: maxNewTokens",
                what=f"{job.eval.max_new_tokens} new tokens leave no room for a prompt in the model's "
                f"{info.text_positions} positions",
                remedy="Lower maxNewTokens.",
            )
        )
    if faults or tiles is None:
        raise BadConfiguration(faults)
    return GenerateSettings(
        prompt=PromptSettings(
            template=choose_template(card),
            max_tiles=tiles.max,
            budget=BUDGET_RULES[tiles.rule],
            geometry=replace(info.geometry, thumbnail=tiles.thumbnail),
            most_tokens=room,
        ),
        tiles=tiles,
        tiles_from=tiles_from,
        answer_template=template,
        answer_template_from=template_from,
    )


def adapter_faults(job: ShardJob, card: AdapterCard | None) -> list[Fault]:
    """What is wrong with the adapter: it belongs to another base model."""
    if card is None or card.base.digest == job.base.digest:
        return []
    return [
        Fault(
            where=str(job.adapter_folder),
            what=f"the adapter was trained on {card.base.source} ({card.base.digest}), "
            f"and the base model is {job.base.source} ({job.base.digest})",
            remedy="Evaluate the adapter on the model that it was trained on.",
        )
    ]


def _choose_tiles(job: GenerateJob, card: AdapterCard | None) -> tuple[TilesSpec | None, Origin]:
    if job.eval.tiles is not None:
        return job.eval.tiles, "evaluation"
    if card is not None:
        return TilesSpec.model_validate(card.tiles.model_dump()), "adapter"
    return job.tiles, "training"


def choose_answer_template(job: ShardJob, card: AdapterCard | None) -> tuple[str, Origin]:
    """What stands before the answer, and who says so."""
    if job.eval.answer_template is not None:
        return job.eval.answer_template, "evaluation"
    if card is not None:
        return card.answer_template, "adapter"
    if job.answer_template is not None:
        return job.answer_template, "training"
    return FINAL_ANSWER, "default"
