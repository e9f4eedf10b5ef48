"""What the generate stage is told to do, resolved to folders of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tandem.model.card import CardBase
from tandem.spec import EvalSpec, TilesSpec


class ShardJob(BaseModel):
    """One shard of one evaluation's generation, whoever generates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eval: EvalSpec
    """As the Run file says it (camelCase keys)."""
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
    """Which model it is."""
    seed: int
    """The Run's seed. Greedy generation draws nothing; it is recorded with the result."""
    answer_template: str | None = None
    """The training's in this Run. Used where neither the evaluation nor an adapter names one."""

    @model_validator(mode="after")
    def _check_shard(self) -> Self:
        if self.shard >= self.eval.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.eval.shards}")
        return self


class GenerateJob(ShardJob):
    """A shard that a model in this process generates."""

    model_folder: Path
    """Where `base` lies."""
    tiles: TilesSpec | None = None
    """The training's in this Run. Used where neither the evaluation nor an adapter says how to cut images."""
