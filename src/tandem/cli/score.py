"""`tandem score`."""

from __future__ import annotations

from pathlib import Path

from tandem.cli.console import Format, tell
from tandem.cli.run import complete_run, report_end
from tandem.control.settings import describe_scoring, put_settings, read_checkpoints
from tandem.control.stages import Stage, list_evaluations
from tandem.errors import BadConfiguration, Fault
from tandem.record.commit import is_committed
from tandem.record.evaluation import find_evaluation
from tandem.record.run import find_run, parse_record
from tandem.spec import BertScoreSpec, JudgeSpec
from tandem.spec.base import Section
from tandem.spec.load import load_part
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store


class ScoreSettings(Section):
    """What `--settings` may say."""

    judge: JudgeSpec | None = None
    bert_score: BertScoreSpec | None = None


def score_again(
    run: str, store_url: str, *, namespace: str | None, evaluation: str, settings: Path | None, output: Format
) -> int:
    """Score the committed texts of a Run; what was scored with these settings before is adopted."""
    given = read_settings(settings)
    store = open_store(store_url, say=tell)
    place, body = find_run(store, run, namespace=namespace)
    stages = _choose_stages(store, place, body, evaluation, given)
    end = complete_run(store, place, body, stages=lambda: stages)
    return report_end(store, place, end, output=output)


def _choose_stages(
    store: Store, place: RunPlace, body: bytes, evaluation: str, settings: ScoreSettings
) -> tuple[Stage, ...]:
    spec = parse_record(body, where=place.record).parse_spec()
    names = [entry.name for entry in list_evaluations(spec, read_checkpoints(store, place))]
    if evaluation:
        find_evaluation(spec, evaluation)
        names = [evaluation]
    stages: list[Stage] = []
    faults: list[Fault] = []
    for name in names:
        entry, _ = find_evaluation(spec, name)
        for shard in range(entry.shards):
            if not is_committed(store, place, f"generate/{name}/{shard}"):
                faults.append(
                    Fault(
                        where=f"{place.run_id}: {name}",
                        what=f"shard {shard} has no texts yet",
                        remedy="Finish the Run first: `tandem run` with its file.",
                    )
                )
        described = describe_scoring(entry, spec.seed, judge=settings.judge, bert_score=settings.bert_score)
        stages.append(Stage(name=f"score/{name}/{put_settings(store, place, name, described)}"))
    if faults:
        raise BadConfiguration(faults)
    return tuple(stages)


def read_settings(path: Path | None) -> ScoreSettings:
    """What the file says; without one nothing. Raises BadConfiguration with every fault, each with its line."""
    return ScoreSettings() if path is None else load_part(path, ScoreSettings, place=("spec", "evals"))
