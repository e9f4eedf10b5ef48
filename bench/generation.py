"""Time batched generation against one sample at a time: `python -m bench.generation [--samples N]`; prints JSON.

The tiny model on one thread of the CPU, in float32: the product's own way from images on disk to predictions, with the
batches that it plans and with batches of one. transformers' own `generate`, sample by sample, is timed beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tandem.evaluate.batches import Batch, plan_batches
from tandem.evaluate.generate import Generator, PlainTexts
from tandem.evaluate.parts import Part
from tandem.evaluate.prepare import PreparedSample, PromptSettings, encode_sample, load_tiles, prepare_samples
from tandem.evaluate.records import EvalSample, Prediction
from tandem.model.loading import load_base, load_tokenizer, read_model_info
from tandem.model.prompt import INTERNVL2_5
from tandem.model.tiles import normalise
from tandem.model.tiny import make_tiny_model
from tandem.spec import EvalSpec

TEXT = "Is the lesion in the left lower lobe of this image larger than before and what does it show"
WORDS = TEXT.split(" ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--one-by-one", type=int, default=32, help="samples to generate one after the other")
    parser.add_argument("--new-tokens", type=int, default=48, help="most new tokens: what jobs/demo.yaml asks for")
    parser.add_argument("--batch-tokens", type=int, default=EvalSpec.model_fields["batch_tokens"].default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_model(folder / "model", seed=0)
        generator = open_generator(folder / "model", options.new_tokens)
        samples = make_samples(folder / "images", options.samples, generator)
        plan = plan_batches(
            [sample.prompt_tokens for sample in samples],
            max_new_tokens=options.new_tokens,
            batch_tokens=options.batch_tokens,
        )
        few = choose_evenly(plan, options.one_by_one)
        single = [Batch(index=n, samples=(i,), prompt_tokens=samples[i].prompt_tokens) for n, i in enumerate(few)]
        generate(generator, samples, single[:1])  # what only the first call costs
        batched, predictions = generate(generator, samples, plan)
        alone, alone_predictions = generate(generator, samples, single)
        plain, texts = generate_by_transformers(generator, [samples[index] for index in few])
    by_id = {prediction.sample_id: prediction for prediction in predictions}
    rate, rate_alone, rate_plain = len(samples) / batched, len(few) / alone, len(few) / plain
    print(
        json.dumps(
            {
                "samples": len(samples),
                "batches": len(plan),
                "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
                "new_tokens": sum(prediction.new_tokens for prediction in predictions),
                "finish": dict(Counter(prediction.finish for prediction in predictions)),
                "samples_per_second": round(rate, 1),
                "samples_per_second_one_by_one": round(rate_alone, 2),
                "samples_per_second_transformers": round(rate_plain, 2),
                "times_faster": round(rate / rate_alone, 2),
                "times_faster_than_transformers": round(rate / rate_plain, 2),
                "texts_that_differ": sum(by_id[one.sample_id] != one for one in alone_predictions),
                "texts_that_differ_from_transformers": sum(
                    by_id[samples[index].sample.sample_id].text != text for index, text in zip(few, texts, strict=True)
                ),
            }
        )
    )


def open_generator(model: Path, new_tokens: int) -> Generator:
    network: Any = load_base(model, precision="float32", device="cpu")
    info = read_model_info(model)
    return Generator(
        network=network,
        tokenizer=load_tokenizer(model),
        settings=PromptSettings(
            template=INTERNVL2_5,
            max_tiles=2,
            budget="per_sample",
            geometry=info.geometry,
            most_tokens=info.text_positions - new_tokens,
        ),
        max_new_tokens=new_tokens,
    )


def make_samples(images: Path, count: int, generator: Generator) -> list[PreparedSample]:
    """Questions of 5 to 40 words, each about one image of its own that is cut into one to three tiles."""
    draw = random.Random(0)  # noqa: S311
    images.mkdir()
    samples = []
    for number in range(count):
        noise = Image.frombytes("RGB", (8, 8), draw.randbytes(8 * 8 * 3))
        size = draw.choice([(56, 56), (56, 56), (112, 56)])
        noise.resize(size, Image.Resampling.BICUBIC).save(images / f"{number}.png")
        samples.append(
            EvalSample(
                sample_id=f"s{number}",
                question=" ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 40))),
                images=(f"{number}.png",),
                reference_answer="yes",
                answer_type="CLOSED",
            )
        )
    return prepare_samples(
        samples, data=Path("bench.json"), images=images, tokenizer=generator.tokenizer, settings=generator.settings
    )


def choose_evenly(plan: Sequence[Batch], count: int) -> list[int]:
    """So many samples of all, spread evenly over the plan's order of lengths."""
    order = [index for batch in plan for index in batch.samples]
    return [order[(2 * place + 1) * len(order) // (2 * count)] for place in range(count)]


def generate(
    generator: Generator, samples: Sequence[PreparedSample], batches: Sequence[Batch]
) -> tuple[float, list[Prediction]]:
    """How many seconds these batches took, and the predictions."""
    started = time.perf_counter()
    made = PlainTexts(generator=generator, samples=samples).make([Part(number=0, batches=tuple(batches))])
    predictions = [prediction for _, each in made for prediction in each]
    return time.perf_counter() - started, predictions


def generate_by_transformers(generator: Generator, samples: Sequence[PreparedSample]) -> tuple[float, list[str]]:
    """The same by transformers' generate, one prompt at a time; its import is not counted."""
    from transformers import GenerationConfig

    config: Any = GenerationConfig
    asked = config(
        do_sample=False,
        max_new_tokens=generator.max_new_tokens,
        eos_token_id=sorted(generator.stop_ids),
        pad_token_id=min(generator.stop_ids),
    )
    texts = []
    started = time.perf_counter()
    for sample in samples:
        ids = torch.tensor([encode_sample(sample, generator.tokenizer, generator.settings)])
        tiles = normalise(load_tiles(sample, generator.settings), tile_size=generator.settings.geometry.tile_size)
        network: Any = generator.network
        out = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=tiles, generation_config=asked
        )
        texts.append(generator.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return time.perf_counter() - started, [str(text) for text in texts]


if __name__ == "__main__":
    main()
