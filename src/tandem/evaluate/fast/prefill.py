"""Prompts packed into one row, through the language model once: their keys and values go into the cache's pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tandem.evaluate.fast.attention import attend_packed
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
    """Cut prompts, in their order, into rows of at most row_tokens; a longer prompt gets a row of its own."""
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

    def __call__(self, prompts: Sequence[Prompt], pages: Sequence[Sequence[int]], cache: PagedCache) -> torch.Tensor:
        """The logits [prompts, vocabulary] that each prompt's first new token is chosen from.

        pages are each prompt's in the cache. Raises ValueError if image tokens and features do not match in number.
        """
        lengths = [len(prompt.ids) for prompt in prompts]
        decoder, device = self.decoder, self.decoder.embedding.device
        ids = np.concatenate([np.asarray(prompt.ids, dtype=np.int64) for prompt in prompts])
        positions = np.concatenate([np.arange(length) for length in lengths])
        places = np.concatenate([_place_tokens(length, held) for length, held in zip(lengths, pages, strict=True)])
        states = functional.embedding(send(ids, device), decoder.embedding)
        self._place_images(states, ids, [prompt.pixels for prompt in prompts])
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        ends = send(bounds[1:] - 1, device)
        starts = send(bounds.astype(np.int32), device)
        rows, targets = send(positions, device), send(places, device)
        cosines, sines = decoder.cosines[rows], decoder.sines[rows]
        for number, layer in enumerate(decoder.layers):
            queries, keys, values = self.code.open(states, layer, cosines, sines, decoder.shape)
            cache.keys[number].index_copy_(0, targets, keys)
            cache.values[number].index_copy_(0, targets, values)
            attended = attend_packed(queries, keys, values, lengths, starts)
            if number < len(decoder.layers) - 1:
                states = self.code.close(states, attended, layer, decoder.shape)
            else:  # nothing reads the other rows any more; few as they are, they would only be compiled again
                states = close_layer(states[ends], attended[ends], layer, decoder.shape)
        return functional.linear(normalise(states, decoder.norm, decoder.shape.epsilon), decoder.head)

    def _place_images(self, states: torch.Tensor, ids: np.ndarray[Any, Any], pixels: Sequence[torch.Tensor]) -> None:
        places = np.flatnonzero(ids == self.network.config.image_token_id)
        tiles = torch.cat(list(pixels))
        if not len(places) and not len(tiles):
            return
        if states.is_cuda:
            tiles = tiles.pin_memory()
        features = encode_tiles(self.network, tiles)
        if len(places) != len(features):
            each = len(features) // len(tiles)
            raise ValueError(f"{len(places)} image tokens for {len(tiles)} x {each} features")
        states.index_copy_(0, send(places, states.device), features.to(states.dtype))


def _place_tokens(length: int, pages: Sequence[int]) -> np.ndarray[Any, Any]:
    numbers = np.arange(length)
    return np.asarray(pages, dtype=np.int64)[numbers // PAGE] * PAGE + numbers % PAGE
