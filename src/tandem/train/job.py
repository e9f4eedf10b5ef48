"""What one rank of a training is told: a JSON file that the stage writes and every rank reads."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tandem.errors import BadConfiguration, Fault
from tandem.model.card import CardBase
from tandem.spec import TrainSpec


class RankJob(BaseModel):
    """One training as its ranks see it: the Run's settings, and where things lie on this node and in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    train: TrainSpec
    """The Run's train section."""
    seed: int
    """The Run's seed."""
    limit: int | None = None
    """Use only the first so many samples of each set; None: all."""
    model_folder: Path
    """The base model on this node."""
    meta: Path
    """The training set's meta file on this node."""
    validation_meta: Path | None = None
    """The validation set's meta file; None exactly if the Run has no validation."""
    work: Path
    """Folder on this node; results go to its folder output/."""
    store_url: str | None = None
    """Where checkpoints go and come from; None: they stay on this machine, and nothing is resumed."""
    execution: str
    """Key prefix of this execution in the store."""
    checkpoints_from: str
    """Key prefix below which every execution's checkpoints are looked for."""
    outcomes: Path
    """Folder on this node where each rank says how it ended."""
    base: CardBase
    """What the adapter will say that it belongs to."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.train.validation is None) != (self.validation_meta is None):
            raise ValueError("validation_meta belongs to train.validation: give both or neither")
        return self

    @property
    def output(self) -> Path:
        """What the stage uploads when training is done."""
        return self.work / "output"


def read_job(path: Path) -> RankJob:
    """Read a job file. Raises BadConfiguration with every fault."""
    try:
        return RankJob.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadConfiguration(
            Fault(where=str(path), what=f"cannot be read ({error.strerror})", remedy="The stage writes this file.")
        ) from None
    except ValidationError as error:
        raise BadConfiguration(
            [
                Fault(
                    where=f"{path}: {'.'.join(map(str, item['loc'])) or 'the whole file'}",
                    what=item["msg"],
                    remedy="Start the ranks with the version of tandem that wrote this file.",
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None


def write_job(path: Path, job: RankJob) -> None:
    """Write the file that read_job reads."""
    path.write_text(job.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
