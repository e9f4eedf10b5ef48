"""Prompts packed into one row, through the language model once: their keys and values go into the cache's pages.

A prompt that is longer than a row is read in chunks, so that memory does not grow with it: each chunk attends to the
keys and values that are in the cache by then. In float32 that makes no difference to any text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tandem.evaluate.fast.attention import attend_last, attend_packed
from tandem.evaluate.fast.cache import PAGE, PagedCache
from tandem.evaluate.fast.layers import LayerCode, close_layer, normalise
from tandem.evaluate.fast.transfer import send
from tandem.evaluate.fast.vision import encode_tiles
from tandem.evaluate.fast.weights import Decoder


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model reads of one sample."""

    ids: Sequence[int]
    pixels: torch.Tensor
    """uint8 [tiles, side, side, 3], in the order of the image tokens."""


def pack_prompts(lengths: Sequence[int], *, row_tokens: int) -> list[list[int]]:
    """Share prompts out, in their order, to rows of at most row_tokens; a longer prompt gets a row of its own."""
    rows: list[list[int]] = []
    filled = 0
    for index, length in enumerate(lengths):
        if not rows or filled + length > row_tokens:
            rows.append([])
            filled = 0
        rows[-1].append(index)
        filled += length
    return rows


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Reads prompts into a cache."""

    network: Any
    decoder: Decoder
    code: LayerCode

    def __call__(
        self, prompts: Sequence[Prompt], pages: Sequence[Sequence[int]], cache: PagedCache, *, row_tokens: int
    ) -> torch.Tensor:
        """The logits [prompts, vocabulary] that each prompt's first new token is chosen from.

        pages are each prompt's in the cache. A single prompt of more than row_tokens is read in chunks.
        Raises ValueError if image tokens and features do not match in number.
        """
        if len(prompts) == 1 and len(prompts[0].ids) > row_tokens:
            return self._read_chunks(prompts[0], pages[0], cache, row_tokens=row_tokens)
        return self._read_row(prompts, pages, cache)

    def _read_row(self, prompts: Sequence[Prompt], pages: Sequence[Sequence[int]], cache: PagedCache) -> torch.Tensor:
        lengths = [len(prompt.ids) for prompt in prompts]
        device = self.decoder.embedding.device
        ids = np.concatenate([np.asarray(prompt.ids, dtype=np.int64) for prompt in prompts])
        pixels = torch.cat([prompt.pixels for prompt in prompts])
        self._check_images(ids, pixels)
        states = self._embed(ids, pixels)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        ends = send(bounds[1:] - 1, device)
        starts = send(bounds.astype(np.int32), device)
        positions = np.concatenate([np.arange(length) for length in lengths])
        places = np.concatenate([_place_tokens(length, held) for length, held in zip(lengths, pages, strict=True)])

        def attend(_: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            return attend_packed(queries, keys, values, lengths, starts)

        return self._say_next(self._run(states, positions, send(places, device), cache, attend, ends=ends))

    def _read_chunks(self, prompt: Prompt, pages: Sequence[int], cache: PagedCache, *, row_tokens: int) -> torch.Tensor:
        device = self.decoder.embedding.device
        ids = np.asarray(prompt.ids, dtype=np.int64)
        self._check_images(ids, prompt.pixels)
        images = np.concatenate([[0], np.cumsum(ids == self.network.config.image_token_id)])
        places = send(_place_tokens(len(ids), pages), device)
        count = -(-len(ids) // row_tokens)
        # All about as long: a last one of a single token is what compiled code does not take.
        for start, end in pairwise(number * len(ids) // count for number in range(count + 1)):
            first, last = int(images[start]), int(images[end])
            tiles = slice(first // self._per_tile, -(-last // self._per_tile))
            states = self._embed(ids[start:end], prompt.pixels[tiles], skip=first % self._per_tile)
            bounds = (
                send(np.asarray([0, end - start], dtype=np.int32), device),
                send(np.asarray([0, end], dtype=np.int32), device),
            )

            def attend(
                number: int,
                queries: torch.Tensor,
                _keys: torch.Tensor,
                _values: torch.Tensor,
                end: int = end,
                bounds: tuple[torch.Tensor, torch.Tensor] = bounds,
            ) -> torch.Tensor:
                seen = places[:end]
                return attend_last(queries, cache.keys[number][seen], cache.values[number][seen], bounds)

            ends = send(np.asarray([end - start - 1]), device)
            states = self._run(states, np.arange(start, end), places[start:end], cache, attend, ends=ends)
        return self._say_next(states)

    def _run(
        self,
        states: torch.Tensor,
        positions: np.ndarray[Any, Any],
        places: torch.Tensor,
        cache: PagedCache,
        attend: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        ends: torch.Tensor,
    ) -> torch.Tensor:
        """Tokens through all layers; what comes out [ends, hidden] of those that ends names."""
        decoder = self.decoder
        rows = send(positions, states.device)
        cosines, sines = decoder.cosines[rows], decoder.sines[rows]
        for number, layer in enumerate(decoder.layers):
            queries, keys, values = self.code.open(states, layer, cosines, sines, decoder.shape)
            cache.keys[number].index_copy_(0, places, keys)
            cache.values[number].index_copy_(0, places, values)
            attended = attend(number, queries, keys, values)
            if number < len(decoder.layers) - 1:
                states = self.code.close(states, attended, layer, decoder.shape)
            else:  # nothing reads the other rows any more; few as they are, they would only be compiled again
                states = close_layer(states[ends], attended[ends], layer, decoder.shape)
        return states

    def _say_next(self, states: torch.Tensor) -> torch.Tensor:
        return functional.linear(normalise(states, self.decoder.norm, self.decoder.shape.epsilon), self.decoder.head)

    @property
    def _per_tile(self) -> int:
        return int(self.network.config.image_seq_length)

    def _check_images(self, ids: np.ndarray[Any, Any], tiles: torch.Tensor) -> None:
        count = int(np.count_nonzero(ids == self.network.config.image_token_id))
        if count != len(tiles) * self._per_tile:
            raise ValueError(f"{count} image tokens for {len(tiles)} x {self._per_tile} features")

    def _embed(self, ids: np.ndarray[Any, Any], tiles: torch.Tensor, *, skip: int = 0) -> torch.Tensor:
        """States [tokens, hidden]; image tokens get the tiles' features in their order, but for the first few."""
        device = self.decoder.embedding.device
        states = functional.embedding(send(ids, device), self.decoder.embedding)
        places = np.flatnonzero(ids == self.network.config.image_token_id)
        if len(places):
            if states.is_cuda:
                tiles = tiles.pin_memory()
            features = encode_tiles(self.network, tiles)[skip : skip + len(places)]
            states.index_copy_(0, send(places, device), features.to(states.dtype))
        return states


def _place_tokens(length: int, pages: Sequence[int]) -> np.ndarray[Any, Any]:
    numbers = np.arange(length)
    return np.asarray(pages, dtype=np.int64)[numbers // PAGE] * PAGE + numbers % PAGE
