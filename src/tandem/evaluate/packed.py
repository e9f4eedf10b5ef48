"""Texts for samples in one stream: prompts packed, finished texts making room for waiting ones; `fast` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.batches import Batch
from tandem.evaluate.generate import Generator, Progress, make_prediction
from tandem.evaluate.prepare import PreparedSample, encode_sample, load_tiles
from tandem.evaluate.records import Prediction
from tandem.spec import Engine

if TYPE_CHECKING:
    from tandem.evaluate.fast.prefill import Prompt


def choose_engine(wanted: Engine, network: Any, *, device: str) -> Engine:
    """PACKED or PLAIN, by what was asked for, what the model allows and what pays on the device.

    Raises BadConfiguration if packed was asked for and cannot be.
    """
    if wanted is Engine.PLAIN or (wanted is Engine.AUTO and device == "cpu"):
        return Engine.PLAIN
    from tandem.evaluate.fast.weights import find_obstacle

    obstacle = find_obstacle(network)
    if obstacle is None:
        return Engine.PACKED
    if wanted is Engine.AUTO:
        return Engine.PLAIN
    raise BadConfiguration(
        Fault(
            where="engine",
            what=f"packed cannot generate with this model: {obstacle}",
            remedy="Write engine: auto, or engine: plain.",
        )
    )


def generate_packed(
    generator: Generator,
    samples: Sequence[PreparedSample],
    batches: Sequence[Batch],
    *,
    report: Callable[[Progress], None],
    threads: int,
) -> tuple[list[Prediction], dict[str, Any]]:
    """The predictions of these batches' samples, in the evaluation's order, and what of the engine is to be recorded.

    samples are the whole evaluation's. Batches say no more than which samples are this shard's, and their order;
    `report` is called as the last sample of each finishes. threads load images.
    Raises BadData if an image has changed since it was prepared.
    """
    order = [index for batch in batches for index in batch.samples]
    if not order:
        return [], {}
    from tandem.evaluate.fast.engine import prepare_engine
    from tandem.evaluate.fast.schedule import Request

    engine = prepare_engine(
        generator.network,
        [samples[index].prompt_tokens for index in order],
        stop_ids=generator.stop_ids,
        most_new_tokens=generator.max_new_tokens,
        tile_size=generator.settings.geometry.tile_size,
        texts=len(samples),
    )
    requests = [Request(index=index, prompt_tokens=samples[index].prompt_tokens) for index in order]
    left = {batch.index: len(batch.samples) for batch in batches}
    batch_of = {index: batch.index for batch in batches for index in batch.samples}
    found: dict[int, Prediction] = {}
    for index, ids in engine.generate(requests, lambda index: _load(generator, samples[index]), loaders=threads):
        found[index] = make_prediction(generator, samples[index], ids)
        left[batch_of[index]] -= 1
        if not left[batch_of[index]]:
            done = sum(not count for count in left.values())
            report(Progress(batches=done, batches_total=len(batches), samples=len(found), samples_total=len(order)))
    return [found[index] for index in sorted(found)], engine.describe()


def _load(generator: Generator, sample: PreparedSample) -> Prompt:
    from tandem.evaluate.fast.prefill import Prompt
    from tandem.evaluate.fast.vision import stack_tiles

    settings = generator.settings
    return Prompt(
        ids=encode_sample(sample, generator.tokenizer, settings),
        pixels=stack_tiles(load_tiles(sample, settings), tile_size=settings.geometry.tile_size),
    )
