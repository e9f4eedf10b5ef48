"""One decoding step for all slots at once, with everything it needs on the device: it can be captured and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tandem.evaluate.fast.attention import attend_paged
from tandem.evaluate.fast.cache import PAGE, WASTE, PagedCache
from tandem.evaluate.fast.layers import LayerCode, normalise
from tandem.evaluate.fast.transfer import send
from tandem.evaluate.fast.weights import Decoder


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What is being generated; every tensor stays where it is, and steps write into it."""

    tokens: torch.Tensor
    """int64 [slots]: the token that each slot's next step reads."""
    lengths: torch.Tensor
    """int32 [slots]: tokens in the cache."""
    active: torch.Tensor
    """bool [slots]"""
    counts: torch.Tensor
    """int64 [slots]: new tokens so far."""
    texts: torch.Tensor
    """int64 [slots, most new tokens + 1]: the last column takes what idle slots say."""
    pages: torch.Tensor
    """int32 [slots, most pages]"""
    stops: torch.Tensor
    """int64 [stop tokens]"""

    @property
    def most_new_tokens(self) -> int:
        """Longest text (tokens)."""
        return self.texts.shape[1] - 1

    def fill(
        self, slots: Sequence[int], logits: torch.Tensor, lengths: Sequence[int], pages: np.ndarray[Any, Any]
    ) -> None:
        """Start texts in free slots: logits [n, vocabulary] give their first tokens; pages is int32 [n, most pages]."""
        device = self.tokens.device
        places = send(np.asarray(slots), device)
        chosen = logits.argmax(dim=-1)
        self.tokens.index_copy_(0, places, chosen)
        self.lengths.index_copy_(0, places, send(np.asarray(lengths, dtype=np.int32), device))
        self.pages.index_copy_(0, places, send(pages, device))
        self.counts.index_fill_(0, places, 1)
        self.texts[:, 0].index_copy_(0, places, chosen)
        goes_on = ~torch.isin(chosen, self.stops) & (self.most_new_tokens > 1)
        self.active.index_copy_(0, places, goes_on)

    def empty(self, slots: Sequence[int]) -> None:
        """Let go of the slots' pages, before they are given to others."""
        places = send(np.asarray(slots), self.tokens.device)
        self.pages.index_fill_(0, places, WASTE)
        self.lengths.index_fill_(0, places, 0)


def make_slots(
    count: int, *, most_new_tokens: int, most_pages: int, stop_ids: Sequence[int], device: torch.device
) -> Slots:
    """Idle slots."""

    def zeros(*size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    return Slots(
        tokens=zeros(count),
        lengths=zeros(count, dtype=torch.int32),
        active=zeros(count, dtype=torch.bool),
        counts=zeros(count),
        texts=zeros(count, most_new_tokens + 1),
        pages=zeros(count, most_pages, dtype=torch.int32),
        stops=torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device),
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """Reads each active slot's token, chooses the next, and notices ends; idle slots stay as they are."""

    decoder: Decoder
    cache: PagedCache
    slots: Slots
    logits: torch.Tensor
    """[slots, vocabulary] of the last step; those of idle slots mean nothing."""
    code: LayerCode

    def __call__(self) -> None:
        """Run the step."""
        decoder, slots = self.decoder, self.slots
        at = slots.lengths.long()
        pages = slots.pages.gather(1, (at // PAGE).unsqueeze(1)).squeeze(1)
        places = pages.long() * PAGE + at % PAGE
        seen = torch.where(slots.active, slots.lengths + 1, 0)
        cosines, sines = decoder.cosines[at], decoder.sines[at]
        states = functional.embedding(slots.tokens, decoder.embedding)
        for number, layer in enumerate(decoder.layers):
            queries, keys, values = self.code.open(states, layer, cosines, sines, decoder.shape)
            self.cache.keys[number].index_copy_(0, places, keys)
            self.cache.values[number].index_copy_(0, places, values)
            attended = attend_paged(queries, self.cache.keys[number], self.cache.values[number], slots.pages, seen)
            states = self.code.close(states, attended, layer, decoder.shape)
        states = normalise(states, decoder.norm, decoder.shape.epsilon)
        self.logits.copy_(functional.linear(states, decoder.head))
        chosen = self.logits.argmax(dim=-1)
        column = torch.where(slots.active, slots.counts, slots.most_new_tokens)
        slots.texts.scatter_(1, column.unsqueeze(1), chosen.unsqueeze(1))
        slots.tokens.copy_(torch.where(slots.active, chosen, slots.tokens))
        slots.lengths.add_(slots.active)
        slots.counts.add_(slots.active)
        goes_on = ~torch.isin(chosen, slots.stops) & (slots.counts < slots.most_new_tokens)
        slots.active.logical_and_(goes_on)


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """Record what a step launches on the GPU, to be launched again at once. Runs it: all slots must be idle."""
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call,unused-ignore]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
