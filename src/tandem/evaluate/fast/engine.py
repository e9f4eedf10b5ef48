"""Packed generation on one device: its parts put together, with as large a budget as its memory has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from tandem.evaluate.fast.cache import PAGE, WASTE, PagedCache, count_pages, count_token_bytes, make_cache
from tandem.evaluate.fast.layers import LayerCode, close_layer, compile_for_rows, compile_for_steps, open_layer
from tandem.evaluate.fast.prefill import Prefill, Prompt
from tandem.evaluate.fast.schedule import Request, generate_texts
from tandem.evaluate.fast.step import Slots, Step, capture, make_slots
from tandem.evaluate.fast.weights import Decoder, join_weights
from tandem.model.device_memory import measure_room, release_memory

MOST_SLOTS = 64
"""Texts that grow together. Fixed, because a product's shape can change a bfloat16 sum."""

ROW_TOKENS = 16_384
"""Prompt tokens that are read together where memory allows: enough to fill a GPU."""

LEAST_ROW_TOKENS = 1024
"""Fewer are not tried where memory is short."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be turned off, to see what it gives."""

    compiled: bool
    captured: bool
    """Steps are replayed from one CUDA graph."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What fits into the device's memory, found once."""

    slots: int
    row_tokens: int
    """Prompt tokens read together; a longer prompt is read in chunks."""
    cache_tokens: int
    """Prompt and new tokens of all texts that grow together."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A network that is ready to generate; a `schedule.Machine`."""

    decoder: Decoder
    prefill: Prefill
    cache: PagedCache
    state: Slots
    step: Step
    run_step: Callable[[], None]
    budget: Budget

    @property
    def slots(self) -> int:
        """How many texts can grow together."""
        return self.budget.slots

    @property
    def pages(self) -> int:
        """Of the cache, the waste page included."""
        return self.cache.pages

    @property
    def row_tokens(self) -> int:
        """Prompt tokens that are read together."""
        return self.budget.row_tokens

    def describe(self) -> dict[str, Any]:
        """For a result's record."""
        return {**asdict(self.budget), "page_tokens": PAGE, "adapter": "beside" if self.decoder.adapted else None}

    @torch.inference_mode()
    def generate(
        self, groups: Sequence[Sequence[Request]], load: Callable[[int], Prompt], *, loaders: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Texts with their requests' indexes, as they finish; see `schedule.generate_texts`."""
        yield from generate_texts(self, groups, load, most_new_tokens=self.state.most_new_tokens, loaders=loaders)

    def read(self, prompts: Sequence[Prompt], slots: Sequence[int], pages: Sequence[Sequence[int]]) -> None:
        """Read prompts and start their texts in free slots."""
        logits = self.prefill(prompts, pages, self.cache, row_tokens=self.row_tokens)
        self.start(slots, logits, prompts, pages)

    def start(
        self, slots: Sequence[int], logits: torch.Tensor, prompts: Sequence[Prompt], pages: Sequence[Sequence[int]]
    ) -> None:
        """Start the texts of prompts that have been read, with the logits that came out."""
        table = np.full((len(pages), self.state.pages.shape[1]), WASTE, dtype=np.int32)
        for row, held in zip(table, pages, strict=True):
            row[: len(held)] = held
        self.state.fill(slots, logits, [len(prompt.ids) for prompt in prompts], table)

    def advance(self, steps: int) -> None:
        """Run steps for all slots."""
        for _ in range(steps):
            self.run_step()

    def look(self) -> tuple[list[bool], list[int]]:
        """For each slot, whether it is active, and the length of its text."""
        return self.state.active.tolist(), self.state.counts.tolist()

    def take(self, slots: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """The finished texts of slots, which are free afterwards."""
        if not slots:
            return []
        rows = self.state.texts[torch.tensor(slots, device=self.state.texts.device)].tolist()
        self.state.empty(slots)
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def prepare_engine(
    network: Any,
    prompt_tokens: Sequence[int],
    *,
    stop_ids: frozenset[int],
    most_new_tokens: int,
    tile_size: int,
    options: Options | None = None,
    halvings: int = 0,
) -> Engine:
    """Make an engine for prompts of these lengths (tokens, at least one), on the network's device.

    The lengths are the whole evaluation's, even if only a part of it is to be generated: the budget follows from them,
    and is the same for any part. network has no obstacle (`weights.find_obstacle`) and keeps computing what it did.
    options None: compiled and captured on a GPU, neither on CPU. halvings is how often rows and cache were too large
    and are now halved. Raises torch.OutOfMemoryError if the device's memory does not hold the longest prompt.
    """
    longest = max(prompt_tokens)
    gpu = network.device.type == "cuda"
    chosen = Options(compiled=gpu, captured=gpu) if options is None else options
    with torch.inference_mode():
        decoder = join_weights(network, positions=longest + most_new_tokens)
        rows = compile_for_rows() if chosen.compiled else LayerCode(open=open_layer, close=close_layer)
        steps = compile_for_steps() if chosen.compiled else rows
        if chosen.compiled:
            _compile_vision(network)
        prefill = Prefill(network=network, decoder=decoder, code=rows)
        layers, shape = len(decoder.layers), decoder.shape
        slots = min(MOST_SLOTS, len(prompt_tokens))
        needed = sorted((count_pages(tokens + most_new_tokens) for tokens in prompt_tokens), reverse=True)
        row_tokens, spare = _measure_row(prefill, longest=longest, tile_size=tile_size)
        row_tokens >>= halvings
        page_bytes = PAGE * count_token_bytes(layers=layers, shape=shape, like=decoder.embedding)
        room = sum(needed) if spare is None else max(needed[0], round_room(spare // page_bytes))
        pages = max(needed[0], min(room, sum(needed[:slots])) >> halvings)
        cache = make_cache(pages, layers=layers, shape=shape, like=decoder.embedding)
        state = make_slots(
            slots,
            most_new_tokens=most_new_tokens,
            most_pages=needed[0],
            stop_ids=sorted(stop_ids),
            device=network.device,
        )
        step = Step(
            decoder=decoder,
            cache=cache,
            slots=state,
            logits=decoder.head.new_empty((slots, decoder.head.shape[0])),
            code=steps,
        )
        run_step = capture(step) if chosen.captured else step
    budget = Budget(slots=slots, row_tokens=row_tokens, cache_tokens=pages * PAGE)
    return Engine(
        decoder=decoder, prefill=prefill, cache=cache, state=state, step=step, run_step=run_step, budget=budget
    )


def round_room(pages: int) -> int:
    """At most a 32nd less: free memory varies by some megabytes between two attempts, and budgets should not."""
    step = 1 << max(0, pages.bit_length() - 6)
    return pages // step * step


def _measure_row(prefill: Prefill, *, longest: int, tile_size: int) -> tuple[int, int | None]:
    """The most prompt tokens that can be read together, and the bytes then left for the cache (None: no limit).

    Reads one row of that many tokens, nearly all of images, in as many prompts as it takes, and the longest prompt in
    chunks if it is longer: its last chunk has as many keys.
    """
    decoder = prefill.decoder
    device = decoder.embedding.device
    if device.type != "cuda":
        return ROW_TOKENS, None
    scratch = make_cache(0, layers=len(decoder.layers), shape=decoder.shape, like=decoder.embedding)
    row_tokens = ROW_TOKENS
    while True:
        lengths = [[min(longest, row_tokens - start) for start in range(0, row_tokens, longest)]]
        if longest > row_tokens:
            lengths.append([longest])
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            for row in lengths:
                prompts = [_invent_prompt(prefill.network, length, tile_size=tile_size) for length in row]
                pages = [[WASTE] * count_pages(length) for length in row]
                prefill(prompts, pages, scratch, row_tokens=row_tokens)
            torch.cuda.synchronize(device)
            break
        except torch.OutOfMemoryError:
            if row_tokens <= LEAST_ROW_TOKENS:
                raise
        row_tokens //= 2
        release_memory()
    used = torch.cuda.max_memory_allocated(device) - before
    release_memory()
    return row_tokens, measure_room(device) - torch.cuda.memory_reserved(device) - used


def _invent_prompt(network: Any, length: int, *, tile_size: int) -> Prompt:
    per_tile = int(network.config.image_seq_length)
    tiles = length // per_tile
    ids = [network.config.image_token_id] * (tiles * per_tile) + [0] * (length - tiles * per_tile)
    return Prompt(ids=ids, pixels=torch.zeros((tiles, tile_size, tile_size, 3), dtype=torch.uint8))


def _compile_vision(network: Any) -> None:
    for layer in network.model.vision_tower.encoder.layer:
        layer.compile(dynamic=True)
