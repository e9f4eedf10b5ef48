"""Texts for samples, batch by batch: in float32 the same as one by one. The plain way; `packed.py` is the fast one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandem.evaluate.batches import Batch
from tandem.evaluate.decode import decode_greedily
from tandem.evaluate.prepare import PreparedSample, PromptSettings, encode_sample, load_tiles
from tandem.evaluate.records import Prediction
from tandem.model.tiles import normalise

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerBase


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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a generation is."""

    batches: int
    batches_total: int
    samples: int
    samples_total: int


def generate_predictions(
    generator: Generator,
    samples: Sequence[PreparedSample],
    batches: Sequence[Batch],
    *,
    report: Callable[[Progress], None],
) -> list[Prediction]:
    """Generate these batches of the evaluation's samples and return the predictions in the evaluation's order.

    `report` is called after each batch. Raises BadData if an image has changed since it was prepared.
    """
    found: dict[int, Prediction] = {}
    total = sum(len(batch.samples) for batch in batches)
    for number, batch in enumerate(batches, start=1):
        predictions = generate_batch(generator, [samples[index] for index in batch.samples])
        found.update(zip(batch.samples, predictions, strict=True))
        report(Progress(batches=number, batches_total=len(batches), samples=len(found), samples_total=total))
    return [found[index] for index in sorted(found)]


def generate_batch(generator: Generator, rows: Sequence[PreparedSample]) -> list[Prediction]:
    """Generate the texts of samples together, one prediction for each, in their order.

    Raises BadData if an image has changed since it was prepared.
    """
    tiles = [tile for row in rows for tile in load_tiles(row, generator.settings)]
    texts = decode_greedily(
        generator.network,
        [encode_sample(row, generator.tokenizer, generator.settings) for row in rows],
        normalise(tiles, tile_size=generator.settings.geometry.tile_size),
        stop_ids=generator.stop_ids,
        max_new_tokens=generator.max_new_tokens,
    )
    return [make_prediction(generator, row, ids) for row, ids in zip(rows, texts, strict=True)]


def make_prediction(generator: Generator, row: PreparedSample, ids: Sequence[int]) -> Prediction:
    """A sample's prediction, from the tokens of its text, a stop token included."""
    text = generator.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(
        **dict(row.sample),
        text=str(text),
        finish="stop" if ids and ids[-1] in generator.stop_ids else "length",
        prompt_tokens=row.prompt_tokens,
        new_tokens=len(ids),
        tiles=row.tiles,
    )
