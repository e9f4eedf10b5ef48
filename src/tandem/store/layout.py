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

    def attempts(self, stage: str) -> str:
        """What became of each attempt of a stage, one folder for each number; on one machine its log alone."""
        return f"{self.stage(stage)}attempts/"

    def attempt_start(self, stage: str, number: int) -> str:
        """Which job an attempt is, written once that job is there."""
        return f"{self.attempts(stage)}{number:03d}/start.json"

    def attempt_end(self, stage: str, number: int) -> str:
        """How an attempt ended, written after its pods' logs."""
        return f"{self.attempts(stage)}{number:03d}/attempt.json"

    def attempt_pods(self, stage: str, number: int) -> str:
        """What was seen of an attempt's pods while they were there, one folder for each uid."""
        return f"{self.attempts(stage)}{number:03d}/pods/"

    def attempt_log(self, stage: str, number: int, pod: str) -> str:
        """What one pod of an attempt said; on one machine what it said that has handed in no log itself."""
        return f"{self.attempts(stage)}{number:03d}/logs/{pod}.log"

    def job(self, stage: str) -> str:
        """The manifest of a stage's job as it was first made; the shards of an evaluation share one job."""
        kind, *rest = stage.split("/")
        return f"{self.prefix}jobs/{'-'.join([kind, *(rest[:1] if kind == 'generate' else rest)])}.json"

    @property
    def objects(self) -> str:
        """The objects of clusters that asked for this Run, one folder for each uid."""
        return f"{self.prefix}objects/"

    def asked(self, uid: str) -> str:
        """That an object of a cluster asks for this Run, written when it is first seen."""
        return f"{self.objects}{uid}/asked.json"

    def ended(self, uid: str) -> str:
        """How the Run ended for an object of a cluster: done, failed, cancelled, or deleted before its end."""
        return f"{self.objects}{uid}/ended.json"

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
