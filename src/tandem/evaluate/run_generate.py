"""The generate stage's work from job to files: load, prepare, plan, make what is missing of this shard, record."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tandem.evaluate.batches import Batch, plan_batches, select_shard
from tandem.evaluate.generate import Generator, PlainTexts
from tandem.evaluate.job import GenerateJob
from tandem.evaluate.packed import PackedTexts, choose_engine
from tandem.evaluate.parts import Progress, TextMaker
from tandem.evaluate.prepare import PreparedSample, prepare_samples
from tandem.evaluate.records import Prediction
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.settings import GenerateSettings, resolve_settings
from tandem.evaluate.shard_output import write_record, write_texts
from tandem.evaluate.shelf import ShelfPlace
from tandem.model.card import AdapterCard, read_card
from tandem.model.environment import describe_environment
from tandem.model.loading import ADAPTER_WEIGHTS, load_adapter, load_base, load_tokenizer, read_model_info
from tandem.spec import Engine, Precision, canonical_json, sha256_hex
from tandem.store.files import digest_file

MOST_LOADERS = 16
"""Threads that decode images ahead of a GPU."""


def run_generate(
    job: GenerateJob,
    *,
    shelf: ShelfPlace | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Generate one shard of an evaluation into <work>/output: predictions (part-00000.jsonl ...) and generate.json.

    With a shelf each part is also in the store as soon as it is whole, and whole parts that earlier executions left
    there are taken instead of made. All data are looked at before the model is loaded. `say` is told in one line what
    was found of earlier executions. Raises BadData and BadConfiguration with every fault that the step which met them
    found, OutOfMemory for a sample that does not fit into the device's memory alone, and the store's errors.
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
    generator = Generator(
        network=_load_network(job, device),
        tokenizer=tokenizer,
        settings=settings.prompt,
        max_new_tokens=job.eval.max_new_tokens,
    )
    maker = _choose_maker(job, generator, prepared, device=device)
    made_with = {
        "settings": _describe_settings(job, settings, card, plan),
        "shard": job.shard,
        "adapter_weights": _digest_adapter(job),
        "device": device,
        "engine": maker.name,
        "environment": describe_environment(),
    }
    output = job.work / "output"
    written = write_texts(
        maker, batches, samples, made_with=made_with, output=output, shelf=shelf, report=report, say=say
    )
    write_record(
        maker,
        written,
        made_with=made_with,
        shard=_describe_shard(job, batches, written.predictions),
        output=output,
        texts_may_differ=bool(written.reused)
        and job.eval.precision is not Precision.FLOAT32
        and (not written.made_alike or _has_halved(written.predictions)),
    )


def _has_halved(predictions: Sequence[Prediction]) -> bool:
    """Whether something did not fit: undisturbed, what follows would have been halved at once, and now is tried."""
    return any(prediction.batch_halvings for prediction in predictions)


def _choose_maker(
    job: GenerateJob, generator: Generator, prepared: Sequence[PreparedSample], *, device: str
) -> TextMaker:
    if choose_engine(job.eval.engine, generator.network, device=device) is Engine.PACKED:
        threads = min(MOST_LOADERS, os.cpu_count() or 1)
        return PackedTexts(generator=generator, samples=prepared, threads=threads)
    return PlainTexts(generator=generator, samples=prepared)


def _choose_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_network(job: GenerateJob, device: str) -> Any:
    model: Any = load_base(job.model_folder, precision=job.eval.precision, device=device)
    if job.adapter_folder is None:
        return model
    return load_adapter(model, job.adapter_folder).get_base_model()


def _digest_adapter(job: GenerateJob) -> str | None:
    """The base is in the settings by its digest, an adapter only by its card."""
    if job.adapter_folder is None:
        return None
    return digest_file(job.adapter_folder / ADAPTER_WEIGHTS).sha256


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
        "prompt_tokens": sum(each.prompt_tokens for each in predictions),
        "new_tokens": sum(each.new_tokens for each in predictions),
        "tiles": sum(each.tiles for each in predictions),
        "halved": {
            "samples": sum(each.batch_halvings > 0 for each in predictions),
            "most": max((each.batch_halvings for each in predictions), default=0),
        },
    }
