"""Texts for samples in streams: prompts packed, finished texts making room for waiting ones; `fast` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tandem.errors import BadConfiguration, Fault
from tandem.evaluate.batches import Batch
from tandem.evaluate.generate import Generator, make_prediction
from tandem.evaluate.memory import does_not_fit
from tandem.evaluate.parts import Part
from tandem.evaluate.prepare import PreparedSample, encode_sample, load_tiles
from tandem.evaluate.records import Prediction
from tandem.model.device_memory import release_memory
from tandem.spec import Engine

if TYPE_CHECKING:
    from tandem.evaluate.fast.prefill import Prompt

MOST_HALVINGS = 6
"""Of an engine's budget: then its cache holds one sample, its rows 256 tokens (see MOST_SLOTS and ROW_TOKENS there)."""


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


@dataclass(kw_only=True)
class PackedTexts:
    """Makes texts part by part, each in a stream of its own; a `parts.TextMaker`.

    Rows and slots are filled from one part, on an engine that is empty before it and whose budget follows from all
    samples of the evaluation. So a part that is made again after a restart goes through the same rows and slots, and
    says the same even in bfloat16, where a row's shape can change a sum, if the device has room for the same budget.
    `describe` says which it is; whoever goes on with parts that were made with another one records that. Other numbers
    of shards make other parts: in bfloat16 a text can depend on them. In float32 it cannot be told.

    When memory runs out, rows and cache are halved, and the texts that were under way begin anew.
    """

    generator: Generator
    samples: Sequence[PreparedSample]
    """The whole evaluation's."""
    threads: int
    """They load images."""
    prepare: Callable[..., Any] | None = None
    """`fast.engine.prepare_engine`, or what stands in for it; None: that, loaded when it is needed."""
    name: str = "packed"
    least_samples: int = 512
    """Eight times as many as grow together: at a part's end slots run empty, and what that costs is shared out.

    Counted with the schedule for texts of 16 to 256 tokens, evenly spread: 25 % more steps than one stream for 256
    samples a part, 12 % for 512, 6 % for 1024. With prompts as in docs/benchmarks.md steps are an eighth of the time,
    so 512 costs 1 to 2 %; short prompts with a few long texts among many short ones cost more. A broken attempt loses
    a part at most: a minute of such a 2B model.
    """
    _halvings: int = field(default=0, init=False)
    _described: dict[str, Any] = field(default_factory=dict, init=False)

    def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
        """See `parts.TextMaker`: a batch comes as the last of its samples finishes.

        Raises OutOfMemory for a sample that does not fit alone, BadData if an image has changed since it was prepared.
        """
        batches = [batch for part in parts for batch in part.batches]
        batch_of = {index: batch for batch in batches for index in batch.samples}
        found: dict[int, Prediction] = {}
        waiting = {batch.index: len(batch.samples) for batch in batches}
        groups = [[index for batch in part.batches for index in batch.samples] for part in parts]
        for index, prediction in self._stream(groups):
            found[index] = prediction
            batch = batch_of[index]
            waiting[batch.index] -= 1
            if not waiting[batch.index]:
                yield batch, [found.pop(each) for each in batch.samples]

    def describe(self) -> dict[str, Any]:
        """The budget of the engine that makes texts now or made the last; nothing if there was nothing to make."""
        return {**self._described, "halvings": self._halvings} if self._described else {}

    def _stream(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, Prediction]]:
        import torch

        left = {index for group in groups for index in group}
        while left:
            try:
                for index, ids in self._generate([[index for index in group if index in left] for group in groups]):
                    left.remove(index)
                    yield index, make_prediction(self.generator, self.samples[index], ids, halvings=self._halvings)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if self._halvings == MOST_HALVINGS:
                    longest = max(self.samples, key=lambda sample: sample.prompt_tokens)
                    raise does_not_fit(longest, max_new_tokens=self.generator.max_new_tokens) from error
                self._halvings += 1
            release_memory()

    def _generate(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
        from tandem.evaluate.fast.engine import prepare_engine
        from tandem.evaluate.fast.schedule import Request

        generator, samples = self.generator, self.samples
        engine = (self.prepare or prepare_engine)(
            generator.network,
            [sample.prompt_tokens for sample in samples],
            stop_ids=generator.stop_ids,
            most_new_tokens=generator.max_new_tokens,
            tile_size=generator.settings.geometry.tile_size,
            halvings=self._halvings,
        )
        self._described = engine.describe()
        requests = [
            [Request(index=index, prompt_tokens=samples[index].prompt_tokens) for index in group] for group in groups
        ]
        yield from engine.generate(requests, lambda index: _load(generator, samples[index]), loaders=self.threads)


def _load(generator: Generator, sample: PreparedSample) -> Prompt:
    from tandem.evaluate.fast.prefill import Prompt
    from tandem.evaluate.fast.vision import stack_tiles

    settings = generator.settings
    return Prompt(
        ids=encode_sample(sample, generator.tokenizer, settings),
        pixels=stack_tiles(load_tiles(sample, settings), tile_size=settings.geometry.tile_size),
    )
