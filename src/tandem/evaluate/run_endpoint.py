"""The generate stage's work where a server generates: look at all data, ask for what is missing of this shard, record.

It leaves the same files as run_generate, from which scoring goes on in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tandem.errors import BadConfiguration
from tandem.evaluate.batches import Batch, select_shard
from tandem.evaluate.chat_calls import Caller, server_faults
from tandem.evaluate.endpoint import EndpointTexts, describe_endpoint, open_caller
from tandem.evaluate.endpoint_request import prepare_asked
from tandem.evaluate.job import ShardJob
from tandem.evaluate.parts import Progress
from tandem.evaluate.records import Prediction
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.served import list_sources
from tandem.evaluate.settings import adapter_faults, choose_answer_template
from tandem.evaluate.shard_output import write_record, write_texts
from tandem.evaluate.shelf import ShelfPlace
from tandem.model.card import AdapterCard, read_card
from tandem.model.environment import describe_installation
from tandem.spec import EndpointSpec, find_marker

OpenCaller = Callable[..., Caller]
"""`endpoint.open_caller`, or what stands in for it."""


def run_endpoint(
    job: ShardJob,
    *,
    environment: Mapping[str, str],
    shelf: ShelfPlace | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    connect: OpenCaller = open_caller,
) -> None:
    """Ask the evaluation's endpoint for one shard's texts; files, shelf, report and say as in run_generate.

    The key comes from the environment variable that the section names. All data are looked at before the first call.
    Raises BadData and BadConfiguration with every fault that the step which met them found, what
    endpoint.EndpointTexts raises, and the store's errors.
    """
    endpoint = job.eval.endpoint
    assert endpoint is not None
    samples = read_eval_samples(job.data)[: job.limit]
    card = None if job.adapter_folder is None else read_card(job.adapter_folder)
    place = f"evaluation {job.eval.name!r}: "
    faults = [*adapter_faults(job, card), *server_faults(describe_endpoint(endpoint), environment, place=place)]
    if faults:
        raise BadConfiguration(faults)
    asked = prepare_asked(samples, data=job.data, images=job.images)
    plan = tuple(Batch(index=index, samples=(index,), prompt_tokens=0) for index in range(len(asked)))
    batches = select_shard(plan, shard=job.shard, shards=job.eval.shards)
    maker = EndpointTexts(
        endpoint=endpoint,
        caller=connect(endpoint, key=environment[endpoint.key_env].strip()),
        samples=asked,
        max_new_tokens=job.eval.max_new_tokens,
    )
    made_with = {
        "settings": _describe_settings(job, endpoint, card, samples=len(samples)),
        "shard": job.shard,
        "engine": maker.name,
        "environment": describe_installation(),
    }
    output = job.work / "output"
    try:
        written = write_texts(
            maker, batches, samples, made_with=made_with, output=output, shelf=shelf, report=report, say=say
        )
    finally:
        maker.close()
    shard = _describe_shard(job, written.predictions)
    write_record(maker, written, made_with=made_with, shard=shard, output=output)


def _describe_settings(
    job: ShardJob, endpoint: EndpointSpec, card: AdapterCard | None, *, samples: int
) -> dict[str, Any]:
    """Everything that must be the same in all shards of one evaluation."""
    template, template_from = choose_answer_template(job, card)
    return {
        "eval": job.eval.name,
        "base": job.base.model_dump(),
        "adapter": None if card is None else card.model_dump(mode="json", by_alias=True),
        "limit": job.limit,
        "seed": job.seed,
        "tiles": None,
        "answer_template": {"text": template, "from": template_from},
        "marker": find_marker(template),
        "max_new_tokens": job.eval.max_new_tokens,
        "samples": samples,
        "shards": job.eval.shards,
        "preprocessing": "server",
        "endpoint": {
            "base_url": endpoint.base_url,
            "model": endpoint.model,
            "claimed_to_serve": job.eval.of.value,
            "system_message": endpoint.system_message,
            "temperature": endpoint.temperature,
            "seed": endpoint.seed,
        },
    }


def _describe_shard(job: ShardJob, predictions: Sequence[Prediction]) -> dict[str, Any]:
    return {
        "index": job.shard,
        "prompt_tokens": _sum([each.prompt_tokens for each in predictions]),
        "new_tokens": _sum([each.new_tokens for each in predictions]),
        "served_by": [source.model_dump() for source in list_sources(predictions)],
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    """None where the server has not counted each."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
