"""Where everything lies in a store: the one place that spells keys."""

from __future__ import annotations

from dataclasses import dataclass

EXIT = "exit.json"


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """The keys of one Run."""

    namespace: str
    run_id: str

    @property
    def prefix(self) -> str:
        """Everything of this Run starts with this."""
        return f"runs/{self.namespace}/{self.run_id}/"

    @property
    def record(self) -> str:
        """What was asked for, written once."""
        return f"{self.prefix}run.json"

    def stage(self, stage: str) -> str:
        """Everything of one stage (train, generate/<eval>/<shard>, score/<eval>/<score id>) starts with this."""
        match stage.split("/"):
            case ["train"]:
                return f"{self.prefix}train/"
            case ["generate", evaluation, shard]:
                return f"{self.prefix}evals/{evaluation}/generate/shard-{int(shard):02d}/"
            case ["score", evaluation, score_id]:
                return f"{self.prefix}evals/{evaluation}/scores/{score_id}/"
            case _:
                raise ValueError(f"no such stage: {stage}")

    def executions(self, stage: str) -> str:
        """What attempts of a stage wrote, one folder for each execution."""
        return f"{self.stage(stage)}executions/"

    def execution(self, stage: str, execution: str) -> str:
        """What one execution wrote."""
        return f"{self.executions(stage)}{execution}/"

    def commit(self, stage: str) -> str:
        """Which execution of a stage counts, written once."""
        return f"{self.stage(stage)}commit.json"

    def score_settings(self, evaluation: str, score_id: str) -> str:
        """How these scores are made, written once, before they are."""
        return f"{self.stage(f'score/{evaluation}/{score_id}')}settings.json"


def place_of_record(key: str) -> RunPlace | None:
    """The Run whose record has this key; None for every other key."""
    match key.split("/"):
        case ["runs", namespace, run_id, "run.json"]:
            return RunPlace(namespace=namespace, run_id=run_id)
        case _:
            return None
