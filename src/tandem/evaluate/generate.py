"""Texts for samples, batch by batch: in float32 the same as one by one. The plain way; `packed.py` is the fast one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tandem.evaluate.batches import Batch
from tandem.evaluate.decode import decode_greedily
from tandem.evaluate.memory import does_not_fit
from tandem.evaluate.parts import Part
from tandem.evaluate.prepare import PreparedSample, PromptSettings, encode_sample, load_tiles
from tandem.evaluate.records import Prediction
from tandem.model.device_memory import release_memory
from tandem.model.tiles import normalise

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerBase

Decode = Callable[..., list[list[int]]]
"""`decode.decode_greedily`, or what stands in for it."""


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A model that is ready to answer: weights, tokenizer and the settings of its prompts."""

    network: InternVLForConditionalGeneration
    """In evaluation mode; an adapter's layers are already in place."""
    tokenizer: PreTrainedTokenizerBase
    settings: PromptSettings
    max_new_tokens: int

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end the model's turn: the template's, and the tokenizer's end of sequence."""
        ends = (self.settings.template.turn_end, self.tokenizer.eos_token)
        return frozenset(int(self.tokenizer.get_vocab()[token]) for token in ends if token is not None)


@dataclass(kw_only=True)
class PlainTexts:
    """Makes texts batch by batch, in the plan's order; a `parts.TextMaker`.

    A batch that does not fit into memory is halved until it does, and so are those after it that are as large.
    """

    generator: Generator
    samples: Sequence[PreparedSample]
    """The whole evaluation's."""
    decode: Decode = decode_greedily
    name: str = "plain"
    least_samples: int = 16
    """Batches of long prompts hold few samples and take long: of those, some are a part."""
    _most_tokens: int | None = field(default=None, init=False)
    """Padded prompt and new tokens of a batch that are tried, since more did not fit; None: any number."""

    def make(self, parts: Sequence[Part]) -> Iterator[tuple[Batch, list[Prediction]]]:
        """See `parts.TextMaker`.

        Raises OutOfMemory for a sample that does not fit alone, BadData if an image has changed since it was prepared.
        """
        for batch in (batch for part in parts for batch in part.batches):
            yield batch, self._make([self.samples[index] for index in batch.samples], halvings=0)

    def describe(self) -> dict[str, Any]:
        """Nothing: its settings are the evaluation's."""
        return {}

    def _make(self, rows: Sequence[PreparedSample], *, halvings: int) -> list[Prediction]:
        import torch

        new_tokens = self.generator.max_new_tokens
        each = max(row.prompt_tokens for row in rows) + new_tokens
        half = (len(rows) + 1) // 2
        if len(rows) == 1 or self._most_tokens is None or len(rows) * each <= self._most_tokens:
            try:
                return generate_batch(self.generator, rows, decode=self.decode, halvings=halvings)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(rows) == 1:
                    raise does_not_fit(rows[0], max_new_tokens=new_tokens) from error
            self._most_tokens = half * each
            release_memory()
        return [
            *self._make(rows[:half], halvings=halvings + 1),
            *self._make(rows[half:], halvings=halvings + 1),
        ]


def generate_batch(
    generator: Generator, rows: Sequence[PreparedSample], *, decode: Decode = decode_greedily, halvings: int = 0
) -> list[Prediction]:
    """Generate the texts of samples together, one prediction for each, in their order.

    halvings is how often their batch was halved; it is recorded. Raises BadData if an image has changed since it was
    prepared, torch.OutOfMemoryError if they do not fit into the device's memory together.
    """
    tiles = [tile for row in rows for tile in load_tiles(row, generator.settings)]
    texts = decode(
        generator.network,
        [encode_sample(row, generator.tokenizer, generator.settings) for row in rows],
        normalise(tiles, tile_size=generator.settings.geometry.tile_size),
        stop_ids=generator.stop_ids,
        max_new_tokens=generator.max_new_tokens,
    )
    return [make_prediction(generator, row, ids, halvings=halvings) for row, ids in zip(rows, texts, strict=True)]


def make_prediction(generator: Generator, row: PreparedSample, ids: Sequence[int], *, halvings: int = 0) -> Prediction:
    """A sample's prediction, from the tokens of its text, a stop token included."""
    text = generator.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(
        **dict(row.sample),
        text=str(text),
        finish="stop" if ids and ids[-1] in generator.stop_ids else "length",
        prompt_tokens=row.prompt_tokens,
        new_tokens=len(ids),
        tiles=row.tiles,
        batch_halvings=halvings,
    )
