"""`tandem score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tandem.cli.places import LOCAL
from tandem.cli.run import complete_run, report_end
from tandem.control.settings import describe_scoring, put_settings, read_checkpoints
from tandem.control.stages import Stage, list_evaluations
from tandem.errors import BadConfiguration, Fault
from tandem.record.commit import is_committed
from tandem.record.evaluation import find_evaluation
from tandem.record.run import find_run, parse_record
from tandem.spec import BertScoreSpec, JudgeSpec
from tandem.spec.yaml12 import parse_yaml
from tandem.store import Store
from tandem.store.layout import RunPlace
from tandem.store.opening import open_store


class ScoreSettings(BaseModel):
    """What `--settings` may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: JudgeSpec | None = None
    bertScore: BertScoreSpec | None = None  # noqa: N815 - the Run file's spelling


def score_again(run: str, store_url: str, *, evaluation: str, settings: Path | None, as_json: bool) -> int:
    """Score the committed texts of a Run; what was scored with these settings before is adopted."""
    store = open_store(store_url)
    place, body = find_run(store, LOCAL, run)
    stages = _choose_stages(store, place, body, evaluation, _read_settings(settings))
    end = complete_run(store, place, body, stages=lambda: stages)
    return report_end(store, place, end, as_json=as_json)


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
        described = describe_scoring(entry, spec.seed, judge=settings.judge, bert_score=settings.bertScore)
        stages.append(Stage(name=f"score/{name}/{put_settings(store, place, name, described)}"))
    if faults:
        raise BadConfiguration(faults)
    return tuple(stages)


def _read_settings(path: Path | None) -> ScoreSettings:
    if path is None:
        return ScoreSettings()
    try:
        value: Any = parse_yaml(path.read_text(encoding="utf-8")).value
        return ScoreSettings.model_validate(value)
    except ValidationError as error:
        raise BadConfiguration(
            [
                Fault(
                    where=f"{path}: {'.'.join(str(part) for part in item['loc'])}",
                    what=item["msg"],
                    remedy="Write judge and bertScore as in a Run file (see docs/run-file.md).",
                )
                for item in error.errors(include_url=False, include_input=False)
            ]
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadConfiguration(
            Fault(where=str(path), what=f"cannot be read ({str(error).splitlines()[0]})", remedy="Give a YAML file.")
        ) from None
