"""Shards are merged whole or not at all: every sample exactly once, all generated with the same settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tandem.errors import BadData, Fault
from tandem.evaluate.records import MOST_FAULTS, EvalSample, Prediction

_REMEDY = "Generate this evaluation again with the same command; complete shards are kept."


class UnmergeableShards(BadData):
    """The shards do not make up the evaluation."""


def merge_shards(shards: Sequence[Sequence[Prediction]], samples: Sequence[EvalSample]) -> list[Prediction]:
    """All predictions in the evaluation's order.

    Raises UnmergeableShards that names every sample that is missing, is there twice, is not of this evaluation, or
    was another one (question, images, reference) when it was generated.
    """
    found: dict[str, list[tuple[int, Prediction]]] = defaultdict(list)
    for shard, predictions in enumerate(shards):
        for prediction in predictions:
            found[prediction.sample_id].append((shard, prediction))
    expected = {sample.sample_id: sample for sample in samples}
    faults = [
        *(_fault(sample_id, "has no prediction") for sample_id in expected if sample_id not in found),
        *(
            _fault(sample_id, f"has {len(places)} predictions, in shards {_join(shard for shard, _ in places)}")
            for sample_id, places in found.items()
            if len(places) > 1
        ),
        *(
            _fault(sample_id, f"is not of this evaluation, but in shard {places[0][0]}")
            for sample_id, places in found.items()
            if sample_id not in expected
        ),
        *(
            _fault(sample_id, f"was another one when shard {shard} was generated (differs in {_join(different)})")
            for sample_id, places in found.items()
            for shard, prediction in places
            if sample_id in expected and (different := _differences(prediction, expected[sample_id]))
        ),
    ]
    if faults:
        raise UnmergeableShards(_shorten(faults))
    return [found[sample.sample_id][0][1] for sample in samples]


def require_equal_settings(settings: Sequence[Mapping[str, Any]]) -> None:
    """Check that all shards were generated alike; each mapping is the `settings` of one shard's generate.json.

    Raises UnmergeableShards that names every setting of every shard that differs from the first shard's.
    """
    faults = [
        Fault(
            where=f"shard {shard}, {name}",
            what=f"was generated with {other.get(name)!r}, but shard 0 with {settings[0].get(name)!r}",
            remedy=_REMEDY,
        )
        for shard, other in enumerate(settings)
        for name in sorted({*settings[0], *other})
        if other.get(name) != settings[0].get(name)
    ]
    if faults:
        raise UnmergeableShards(_shorten(faults))


def _differences(prediction: Prediction, sample: EvalSample) -> list[str]:
    return [name for name in EvalSample.model_fields if getattr(prediction, name) != getattr(sample, name)]


def _fault(sample_id: str, what: str) -> Fault:
    return Fault(where=f"sample {sample_id!r}", what=what, remedy=_REMEDY)


def _shorten(faults: list[Fault]) -> list[Fault]:
    if len(faults) <= MOST_FAULTS:
        return faults
    rest = Fault(where="shards", what=f"{len(faults) - MOST_FAULTS} more faults are not shown", remedy=_REMEDY)
    return [*faults[:MOST_FAULTS], rest]


def _join(items: Any) -> str:
    return ", ".join(str(item) for item in items)
