"""The logits of given texts, by packed and by plain generation: how the two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tandem.evaluate.fast.cache import FreePages, count_pages
from tandem.evaluate.fast.engine import Engine
from tandem.evaluate.fast.prefill import Prompt, pack_prompts
from tandem.evaluate.fast.vision import normalise_pixels


@torch.inference_mode()
def force_packed(engine: Engine, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each prompt the logits [tokens of its text, vocabulary] that its text's tokens are chosen from.

    There are at most as many prompts as slots, texts are all of one length, and no token of theirs is a stop token.
    Every step is the engine's own. The engine is idle before and after.
    """
    length = len(texts[0])
    free = FreePages(engine.pages)
    held = [free.take(count_pages(len(prompt.ids) + engine.state.most_new_tokens)) for prompt in prompts]
    slots = list(range(len(prompts)))
    first: list[torch.Tensor] = []
    for row in pack_prompts([len(prompt.ids) for prompt in prompts], row_tokens=engine.row_tokens):
        chosen = [prompts[place] for place in row]
        pages = [held[place] for place in row]
        logits = engine.prefill(chosen, pages, engine.cache, row_tokens=engine.row_tokens)
        engine.start(row, logits, chosen, pages)
        first.extend(logits)
    found = [[each] for each in first]
    forced = torch.tensor([list(text) for text in texts], device=engine.state.tokens.device)
    for number in range(length - 1):
        engine.state.tokens[: len(slots)] = forced[:, number]
        engine.state.active[: len(slots)] = True
        engine.advance(1)
        for slot, logits in enumerate(engine.step.logits[: len(slots)].clone()):
            found[slot].append(logits)
    engine.state.active.fill_(False)
    engine.state.empty(slots)
    return [torch.stack(each) for each in found]


@torch.inference_mode()
def force_plain(network: Any, prompt: Prompt, text: Sequence[int]) -> torch.Tensor:
    """The same logits of one prompt by transformers' own forward pass over prompt and text, without a cache."""
    ids = torch.tensor([[*prompt.ids, *text[:-1]]], device=network.device)
    pixels = {"pixel_values": normalise_pixels(prompt.pixels.to(network.device))} if len(prompt.pixels) else {}
    logits: torch.Tensor = network(input_ids=ids, logits_to_keep=len(text), **pixels).logits[0]
    return logits
