from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tandem.errors import OutOfMemory, Stopped
from tandem.evaluate.batches import Batch, plan_batches
from tandem.evaluate.decode import decode_greedily
from tandem.evaluate.fast.engine import prepare_engine
from tandem.evaluate.generate import Generator, PlainTexts, generate_batch
from tandem.evaluate.packed import MOST_HALVINGS, PackedTexts
from tandem.evaluate.parts import Progress, TextMaker, Written, plan_parts, write_parts
from tandem.evaluate.prepare import PreparedSample, PromptSettings, prepare_samples
from tandem.evaluate.records import EvalSample, Prediction
from tandem.evaluate.shelf import ShelfPlace, StoreShelf
from tandem.model.loading import load_adapter, load_base, load_tokenizer, read_model_info
from tandem.model.prompt import INTERNVL2_5
from tandem.outcome import classify, describe_failure
from tandem.store import Directory
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


def test_the_budget_of_a_batch_changes_no_prediction(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    lengths = [sample.prompt_tokens for sample in samples]

    def generate(batch_tokens: int) -> dict[int, Prediction]:
        batches = plan_batches(lengths, max_new_tokens=generator.max_new_tokens, batch_tokens=batch_tokens)
        return make_all(PlainTexts(generator=generator, samples=samples), batches)

    assert generate(1) == generate(700) == generate(10**6)
    assert {index: each.sample_id for index, each in generate(700).items()} == {n: f"s{n}" for n in range(12)}


def test_a_prediction_carries_its_sample_and_true_counts(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    for prediction, prepared in zip(generate_batch(generator, samples), samples, strict=True):
        assert EvalSample.model_validate(prediction.model_dump(include=set(EvalSample.model_fields))) == prepared.sample
        assert prediction.prompt_tokens == prepared.prompt_tokens
        assert prediction.tiles == prepared.tiles
        limit = generator.max_new_tokens
        assert prediction.new_tokens in ([limit] if prediction.finish == "length" else range(1, limit + 1))
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


def make_all(texts: TextMaker, batches: Sequence[Batch]) -> dict[int, Prediction]:
    found: dict[int, Prediction] = {}
    for batch, predictions in texts.make(plan_parts(batches, least_samples=texts.least_samples)):
        found.update(zip(batch.samples, predictions, strict=True))
    return found


class ShortOfMemory:
    """Decodes at most so many rows at once, as a device does that holds no more."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []

    def __call__(self, network: Any, prompts: Sequence[Sequence[int]], *others: Any, **named: Any) -> list[list[int]]:
        self.tried.append(len(prompts))
        if len(prompts) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode_greedily(network, prompts, *others, **named)


def test_what_does_not_fit_is_halved_until_it_does_and_says_the_same(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    order = tuple(sorted(range(12), key=lambda index: -samples[index].prompt_tokens))
    batches = [Batch(index=n, samples=order[6 * n : 6 * n + 6], prompt_tokens=0) for n in range(2)]
    wanted = make_all(PlainTexts(generator=generator, samples=samples), batches)
    short = ShortOfMemory(2)
    found = make_all(PlainTexts(generator=generator, samples=samples, decode=short), batches)
    assert {index: each.text for index, each in found.items()} == {index: each.text for index, each in wanted.items()}
    assert {each.batch_halvings for each in wanted.values()} == {0}
    assert [found[index].batch_halvings for index in order] == [2] * 12
    assert short.tried[:3] == [6, 3, 2]
    assert short.tried.count(6) == 1, "what did not fit once is not tried again"


def test_a_sample_that_does_not_fit_alone_is_named_with_what_can_be_done(
    generator: Generator, image_folder: Path
) -> None:
    samples = prepare(generator, image_folder)
    texts = PlainTexts(generator=generator, samples=samples, decode=ShortOfMemory(0))
    with pytest.raises(OutOfMemory, match=r"'s0'.* alone: .* prompt tokens.*Lower the evaluation's tiles") as caught:
        make_all(texts, [Batch(index=0, samples=(0, 1), prompt_tokens=0)])
    assert classify(describe_failure(caught.value)) == "out-of-memory"


def test_packed_texts_begin_anew_with_half_the_room_when_memory_runs_out(
    generator: Generator, image_folder: Path
) -> None:
    samples = prepare(generator, image_folder)
    lengths = [sample.prompt_tokens for sample in samples]
    batches = plan_batches(lengths, max_new_tokens=generator.max_new_tokens, batch_tokens=700)
    wanted = make_all(PlainTexts(generator=generator, samples=samples), batches)
    budgets: list[dict[str, Any]] = []

    def prepare_short(*arguments: Any, **named: Any) -> Any:
        engine = prepare_engine(*arguments, **named)
        budgets.append(engine.describe())
        if named["halvings"] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if named["halvings"] == 1:
            return FailsAfter(engine, texts=5)
        return engine

    packed = PackedTexts(generator=generator, samples=samples, threads=1, prepare=prepare_short)
    found = make_all(packed, batches)
    assert {index: each.text for index, each in found.items()} == {index: each.text for index, each in wanted.items()}
    assert sorted(each.batch_halvings for each in found.values()) == [1] * 5 + [2] * 7
    assert packed.describe() == {**budgets[-1], "halvings": 2}
    tokens = [budget["cache_tokens"] for budget in budgets]
    assert tokens[0] > tokens[1] > tokens[2]


@dataclass
class FailsAfter:
    """An engine that runs out of memory after some texts."""

    engine: Any
    texts: int

    def describe(self) -> Any:
        return self.engine.describe()

    def generate(self, *arguments: Any, **named: Any) -> Iterator[tuple[int, list[int]]]:
        yield from itertools.islice(self.engine.generate(*arguments, **named), self.texts)
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_sample_for_which_no_room_is_small_enough_is_named(generator: Generator, image_folder: Path) -> None:
    samples = prepare(generator, image_folder)
    tried: list[int] = []

    def refuse(*_: Any, halvings: int, **__: Any) -> Any:
        tried.append(halvings)
        raise torch.OutOfMemoryError("CUDA out of memory")

    packed = PackedTexts(generator=generator, samples=samples, threads=1, prepare=refuse)
    with pytest.raises(OutOfMemory, match="does not fit into the device's memory alone"):
        make_all(packed, [Batch(index=0, samples=(0, 1), prompt_tokens=0)])
    assert tried == list(range(MOST_HALVINGS + 1))


@pytest.mark.parametrize("engine", [PlainTexts, functools.partial(PackedTexts, threads=1)])
def test_a_generation_that_was_broken_off_goes_on_from_its_parts(
    generator: Generator, image_folder: Path, tmp_path: Path, engine: Callable[..., TextMaker]
) -> None:
    samples = prepare(generator, image_folder)
    batches = plan_batches([sample.prompt_tokens for sample in samples], max_new_tokens=16, batch_tokens=300)
    parts = plan_parts(batches, least_samples=2)
    wanted = make_all(PlainTexts(generator=generator, samples=samples), batches)

    def attempt(execution: str, most_batches: int) -> Written:
        def report(progress: Progress) -> None:
            if progress.batches == most_batches:
                raise Stopped([])

        place = ShelfPlace(store=Directory(tmp_path / "store"), executions="e/", execution=execution)
        shelf = StoreShelf(place=place, made_with={}, say=pytest.fail)
        asked = [sample.sample for sample in samples]
        maker = engine(generator=generator, samples=samples)
        return write_parts(maker, parts, asked, shelf=shelf, output=tmp_path / execution, report=report)

    with pytest.raises(Stopped):
        attempt("001", most_batches=len(batches) - 1)
    written = attempt("002", most_batches=0)
    assert 0 < len(written.reused) < len(parts)
    assert {prediction.sample_id: prediction for prediction in written.predictions} == {
        prediction.sample_id: prediction for prediction in wanted.values()
    }
    assert len(written.predictions) == len(samples)
