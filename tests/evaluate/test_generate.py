from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem.evaluate.batches import plan_batches
from tandem.evaluate.generate import Generator, Progress, generate_batch, generate_predictions
from tandem.evaluate.prepare import PreparedSample, PromptSettings, prepare_samples
from tandem.evaluate.records import EvalSample
from tandem.model.loading import load_adapter, load_base, load_tokenizer, read_model_info
from tandem.model.prompt import INTERNVL2_5
from tests.evaluate.conftest import IMAGE_SIZES

NAMES = tuple(IMAGE_SIZES)


def make_samples() -> list[EvalSample]:
    """Prompts of different lengths over none to three images."""
    return [
        EvalSample(
            sample_id=f"s{number}",
            case_id=f"c{number // 2}",
            question="<image>" * (number % 4) + "Which of them is it? " * (1 + number * 5 % 7),
            images=NAMES[: number % 4],
            reference_answer="yes",
            reference_reasoning="because",
            answer_type="CLOSED",
        )
        for number in range(12)
    ]


def make_generator(model: Path, adapter: Path | None = None, *, max_new_tokens: int = 16) -> Generator:
    network: Any = load_base(model, precision="float32", device="cpu")
    if adapter is not None:
        network = load_adapter(network, adapter).get_base_model()
    info = read_model_info(model)
    return Generator(
        network=network,
        tokenizer=load_tokenizer(model),
        settings=PromptSettings(
            template=INTERNVL2_5, max_tiles=6, budget="per_sample", geometry=info.geometry, most_tokens=10_000
        ),
        max_new_tokens=max_new_tokens,
    )


def prepare(generator: Generator, images: Path) -> list[PreparedSample]:
    return prepare_samples(
        make_samples(),
        data=Path("eval.json"),
        images=images,
        tokenizer=generator.tokenizer,
        settings=generator.settings,
    )


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Generator:
    """A model that likes to end its turn: the weights of the end token are those of the likeliest token, turned up."""
    made = make_generator(tiny_model)
    head: Any = made.network.lm_head
    (stop,) = made.stop_ids
    head.weight.data[stop] *= 3.0
    return made


def test_in_float32_a_batch_says_what_its_samples_say_one_by_one(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    together = generate_batch(generator, samples)
    assert together == [generate_batch(generator, [sample])[0] for sample in samples]
    assert len({prediction.text for prediction in together}) > 6
    assert {prediction.finish for prediction in together} == {"stop", "length"}


def test_the_budget_of_a_batch_changes_no_prediction_and_no_order(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    lengths = [sample.prompt_tokens for sample in samples]

    def generate(batch_tokens: int) -> Any:
        batches = plan_batches(lengths, max_new_tokens=generator.max_new_tokens, batch_tokens=batch_tokens)
        return generate_predictions(generator, samples, batches, report=lambda _: None)

    assert generate(1) == generate(700) == generate(10**6)
    assert [prediction.sample_id for prediction in generate(700)] == [f"s{number}" for number in range(12)]


def test_a_prediction_carries_its_sample_and_true_counts(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    for prediction, prepared in zip(generate_batch(generator, samples), samples, strict=True):
        assert EvalSample.model_validate(prediction.model_dump(include=set(EvalSample.model_fields))) == prepared.sample
        assert prediction.prompt_tokens == prepared.prompt_tokens
        assert prediction.tiles == prepared.tiles
        limit = generator.max_new_tokens
        assert prediction.new_tokens == limit if prediction.finish == "length" else 1 <= prediction.new_tokens <= limit
        assert "<|im_end|>" not in prediction.text


def test_an_adapter_changes_what_the_model_says(tiny_model: Path, tiny_adapter: Path, image_folder: Path) -> None:
    base, adapted = make_generator(tiny_model), make_generator(tiny_model, tiny_adapter)
    samples = prepare(base, image_folder)
    texts = [[prediction.text for prediction in generate_batch(each, samples)] for each in (base, adapted)]
    assert texts[0] != texts[1]


def test_the_images_change_what_the_model_says(generator: Generator, image_folder: Path) -> None:
    def ask(image: str) -> str:
        sample = EvalSample(sample_id="s", question="Which?", images=(image,), reference_answer="a", answer_type="OPEN")
        prepared = prepare_samples(
            [sample],
            data=Path("eval.json"),
            images=image_folder,
            tokenizer=generator.tokenizer,
            settings=generator.settings,
        )
        return generate_batch(generator, prepared)[0].text

    assert ask("wide.png") != ask("tall.png")


def test_progress_is_told_after_each_batch(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)[:5]
    batches = plan_batches([sample.prompt_tokens for sample in samples], max_new_tokens=16, batch_tokens=1)
    told: list[Progress] = []
    generate_predictions(generator, samples, batches, report=told.append)
    assert told == [
        Progress(batches=number, batches_total=5, samples=number, samples_total=5) for number in range(1, 6)
    ]


def test_no_batches_give_no_predictions(generator: Generator) -> None:
    assert generate_predictions(generator, [], (), report=lambda _: None) == []
