"""What the generate stage is told to do, resolved to folders of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tandem.model.card import CardBase
from tandem.spec import EvalSpec, TilesSpec


class GenerateJob(BaseModel):
    """One shard of one evaluation's generation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eval: EvalSpec
    """As the Run file says it (camelCase keys)."""
    model_folder: Path
    adapter_folder: Path | None = None
    """None: the base model answers."""
    data: Path
    """The evaluation file."""
    images: Path
    """The folder that its image names are relative to."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first samples (count), for a first small run. None: all."""
    shard: int = Field(default=0, ge=0)
    """Which of the evaluation's shards, from 0."""
    work: Path
    """This attempt's own folder; results go to its output/."""
    base: CardBase
    """Which model lies in model_folder."""
    seed: int
    """The Run's seed. Greedy generation draws nothing; it is recorded with the result."""
    tiles: TilesSpec | None = None
    """The training's in this Run. Used where neither the evaluation nor an adapter says how to cut images."""
    answer_template: str | None = None
    """The training's in this Run. Used where neither the evaluation nor an adapter names one."""

    @model_validator(mode="after")
    def _check_shard(self) -> Self:
        if self.shard >= self.eval.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.eval.shards}")
        return self
