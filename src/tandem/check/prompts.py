"""Token lengths of an evaluation's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tandem.check.base import Base
from tandem.check.evaluation import EvalSet, tile_counts
from tandem.check.images import ImageFacts
from tandem.check.report import Collector
from tandem.evaluate.records import EvalSample
from tandem.model.prompt import Turn, encode_prompt, turn_faults
from tandem.spec import TilesSpec


def check_prompts(
    one: EvalSet,
    images: Mapping[Path, ImageFacts],
    tiles: TilesSpec,
    base: Base,
    findings: Collector,
    *,
    cpu_count: int,
) -> int | None:
    """Report prompts that leave too little room for new tokens; returns the longest prompt's tokens.

    None if no sample is sound or the model or its tokenizer is not known: those have findings of their own.
    """
    info, tokenizer = base.info, base.tokenizer
    if info is None or tokenizer is None:
        return None

    def measure(sample: EvalSample) -> int | None:
        counts = tile_counts(one, sample, images, tiles, info.tile_size)
        turns = [Turn(role="user", text=sample.question)]
        if len(counts) < len(sample.images) or turn_faults(turns, len(counts), template=base.template, place=""):
            return None
        ids = encode_prompt(tokenizer, turns, [0] * len(counts), tokens_per_tile=0, template=base.template)
        return len(ids) + sum(counts) * info.tokens_per_tile

    with ThreadPoolExecutor(max_workers=max(1, cpu_count)) as pool:
        measured = list(zip(one.samples, pool.map(measure, one.samples), strict=True))
    room = info.text_positions - one.spec.max_new_tokens
    for sample, tokens in measured:
        if tokens is not None and tokens > room:
            findings.add(
                "prompt-too-long",
                where=f"{one.place}: {one.data} id {sample.sample_id}",
                what=f"the prompt's {tokens} tokens and maxNewTokens ({one.spec.max_new_tokens}) are more than the "
                f"model's {info.text_positions} positions",
                remedy="Lower the evaluation's tiles or maxNewTokens, or shorten the question.",
            )
    return max((tokens for _, tokens in measured if tokens is not None), default=None)
