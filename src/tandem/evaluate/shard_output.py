"""What generating leaves of a shard: texts in parts, and the record that scoring goes on from, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.evaluate.batches import Batch
from tandem.evaluate.parts import Progress, TextMaker, Written, plan_parts, write_parts
from tandem.evaluate.records import EvalSample, Prediction
from tandem.evaluate.shelf import ShelfPlace, StoreShelf
from tandem.store.files import typed_os_errors

RECORD = "generate.json"


def write_texts(
    maker: TextMaker,
    batches: Sequence[Batch],
    samples: Sequence[EvalSample],
    *,
    made_with: Mapping[str, Any],
    output: Path,
    shelf: ShelfPlace | None,
    report: Callable[[Progress], None],
    say: Callable[[str], None],
) -> Written:
    """Make what is missing of a shard's parts; see run_generate for shelf, report and say."""
    return write_parts(
        maker,
        plan_parts(batches, least_samples=maker.least_samples),
        samples,
        shelf=None if shelf is None else StoreShelf(place=shelf, made_with=made_with, say=say),
        output=output,
        report=report,
    )


def write_record(
    maker: TextMaker,
    written: Written,
    *,
    made_with: Mapping[str, Any],
    shard: Mapping[str, Any],
    output: Path,
    texts_may_differ: bool = False,
) -> None:
    """Write generate.json. made_with has settings and environment, and the device if the texts were made here."""
    record = {
        "schema": "tandem.dev/generate/v1",
        "settings": made_with["settings"],
        "shard": {**_describe_texts(written.predictions), **shard},
        "reused": {"parts": written.reused, "texts_may_differ": texts_may_differ},
        "device": made_with.get("device"),
        "engine": {"name": maker.name, **maker.describe()},
        "environment": made_with["environment"],
    }
    body = json.dumps(record, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    with typed_os_errors(str(output)):
        (output / RECORD).write_text(body, encoding="utf-8")


def _describe_texts(predictions: Sequence[Prediction]) -> dict[str, Any]:
    return {
        "samples": len(predictions),
        "finished": {word: sum(each.finish == word for each in predictions) for word in ("stop", "length")},
    }
