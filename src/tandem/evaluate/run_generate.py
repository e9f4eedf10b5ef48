"""The generate stage's work from job to files: load, prepare, plan, generate this shard, write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tandem.evaluate.batches import Batch, plan_batches, select_shard
from tandem.evaluate.generate import Generator, Progress, generate_predictions
from tandem.evaluate.job import GenerateJob
from tandem.evaluate.packed import choose_engine, generate_packed
from tandem.evaluate.prepare import prepare_samples
from tandem.evaluate.records import Prediction, to_jsonl
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.settings import GenerateSettings, resolve_settings
from tandem.model.card import AdapterCard, read_card
from tandem.model.environment import describe_environment
from tandem.model.loading import load_adapter, load_base, load_tokenizer, read_model_info
from tandem.spec import Engine, canonical_json, sha256_hex

PART = "part-00000.jsonl"
RECORD = "generate.json"

MOST_LOADERS = 16
"""Threads that decode images ahead of a GPU."""


def run_generate(job: GenerateJob, *, report: Callable[[Progress], None] = lambda _: None) -> None:
    """Generate one shard of an evaluation into <work>/output: predictions (part-00000.jsonl) and generate.json.

    All data are looked at before the model is loaded. Raises BadData and BadConfiguration with every fault that the
    step which met them found.
    """
    samples = read_eval_samples(job.data)[: job.limit]
    info = read_model_info(job.model_folder)
    card = None if job.adapter_folder is None else read_card(job.adapter_folder)
    settings = resolve_settings(job, info, card)
    tokenizer = load_tokenizer(job.model_folder)
    prepared = prepare_samples(samples, data=job.data, images=job.images, tokenizer=tokenizer, settings=settings.prompt)
    plan = plan_batches(
        [sample.prompt_tokens for sample in prepared],
        max_new_tokens=job.eval.max_new_tokens,
        batch_tokens=job.eval.batch_tokens,
    )
    batches = select_shard(plan, shard=job.shard, shards=job.eval.shards)
    device = _choose_device()
    network = _load_network(job, device)
    generator = Generator(
        network=network,
        tokenizer=tokenizer,
        settings=settings.prompt,
        max_new_tokens=job.eval.max_new_tokens,
    )
    engine = choose_engine(job.eval.engine, network, device=device)
    if engine is Engine.PACKED:
        predictions, described = generate_packed(
            generator, prepared, batches, report=report, threads=min(MOST_LOADERS, os.cpu_count() or 1)
        )
    else:
        predictions, described = generate_predictions(generator, prepared, batches, report=report), {}
    output = job.work / "output"
    output.mkdir(parents=True, exist_ok=True)
    (output / PART).write_bytes(to_jsonl(predictions))
    record = {
        "schema": "tandem.dev/generate/v1",
        "settings": _describe_settings(job, settings, card, plan),
        "shard": _describe_shard(job, batches, predictions),
        "device": device,
        "engine": {"name": engine.value, **described},
        "environment": describe_environment(),
    }
    body = json.dumps(record, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (output / RECORD).write_text(body, encoding="utf-8")


def _choose_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_network(job: GenerateJob, device: str) -> Any:
    model: Any = load_base(job.model_folder, precision=job.eval.precision, device=device)
    if job.adapter_folder is None:
        return model
    return load_adapter(model, job.adapter_folder).get_base_model()


def _describe_settings(
    job: GenerateJob, settings: GenerateSettings, card: AdapterCard | None, plan: Sequence[Batch]
) -> dict[str, Any]:
    """Everything that must be the same in all shards of one evaluation."""
    return {
        "eval": job.eval.name,
        "base": job.base.model_dump(),
        "adapter": None if card is None else card.model_dump(mode="json", by_alias=True),
        "limit": job.limit,
        "seed": job.seed,
        "tiles": {**settings.tiles.model_dump(mode="json", by_alias=True), "from": settings.tiles_from},
        "template": asdict(settings.prompt.template),
        "answer_template": {"text": settings.answer_template, "from": settings.answer_template_from},
        "marker": settings.marker,
        "precision": job.eval.precision.value,
        "max_new_tokens": job.eval.max_new_tokens,
        "batch_tokens": job.eval.batch_tokens,
        "samples": sum(len(batch.samples) for batch in plan),
        "batches": len(plan),
        "plan_sha256": sha256_hex(canonical_json([list(batch.samples) for batch in plan])),
        "shards": job.eval.shards,
        "preprocessing": "in-process",
    }


def _describe_shard(job: GenerateJob, batches: Sequence[Batch], predictions: Sequence[Prediction]) -> dict[str, Any]:
    return {
        "index": job.shard,
        "batches": [batch.index for batch in batches],
        "samples": len(predictions),
        "finished": {word: sum(each.finish == word for each in predictions) for word in ("stop", "length")},
        "prompt_tokens": sum(each.prompt_tokens for each in predictions),
        "new_tokens": sum(each.new_tokens for each in predictions),
        "tiles": sum(each.tiles for each in predictions),
    }
