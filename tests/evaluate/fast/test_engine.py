"""On CPU with the reference attention; kernels are compared with it in test_kernel.py and in bench/gpu_eval.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tandem.evaluate.decode import decode_greedily
from tandem.evaluate.fast import schedule
from tandem.evaluate.fast.attention import attend_each, attend_last, attend_masked
from tandem.evaluate.fast.cache import count_pages
from tandem.evaluate.fast.engine import Engine, prepare_engine, round_room
from tandem.evaluate.fast.forced import force_packed, force_plain
from tandem.evaluate.fast.prefill import Prompt
from tandem.evaluate.fast.schedule import Request
from tandem.evaluate.fast.vision import normalise_pixels, stack_tiles
from tandem.model.loading import load_adapter, load_base
from tandem.model.tiles import normalise

IMAGE_TOKENS = 4
"""Tokens of a tile of the tiny model."""

TILES = (0, 2, 1, 0, 5, 1, 3, 0, 4, 0)


def make_prompts(network: Any, *, seed: int, longest: int = 150) -> list[Prompt]:
    drawn = np.random.default_rng(seed)
    image = network.config.image_token_id
    prompts = []
    for tiles in TILES:
        ids = drawn.integers(256, size=drawn.integers(3, longest)).tolist()
        for _ in range(tiles):
            at = drawn.integers(1, len(ids) + 1)
            ids[at:at] = [image] * IMAGE_TOKENS
        pixels = torch.from_numpy(drawn.integers(256, size=(tiles, 56, 56, 3), dtype=np.uint8))
        prompts.append(Prompt(ids=ids, pixels=pixels))
    return prompts


def make_engine(network: Any, prompts: Sequence[Prompt], *, stops: frozenset[int], new: int) -> Engine:
    return prepare_engine(
        network,
        [len(prompt.ids) for prompt in prompts],
        stop_ids=stops,
        most_new_tokens=new,
        tile_size=56,
    )


def shorten_rows(engine: Engine, row_tokens: int) -> Engine:
    """The engine on the budget of a device with less memory."""
    return replace(engine, budget=replace(engine.budget, row_tokens=row_tokens))


def generate(engine: Engine, prompts: Sequence[Prompt]) -> list[list[int]]:
    requests = [Request(index=index, prompt_tokens=len(prompt.ids)) for index, prompt in enumerate(prompts)]
    found = dict(engine.generate([requests], lambda index: prompts[index], loaders=2))
    return [found[index] for index in range(len(prompts))]


def generate_plainly(network: Any, prompts: Sequence[Prompt], *, stops: frozenset[int], new: int) -> list[list[int]]:
    pixels = normalise_pixels(torch.cat([prompt.pixels for prompt in prompts]))
    return decode_greedily(network, [prompt.ids for prompt in prompts], pixels, stop_ids=stops, max_new_tokens=new)


def load(model: Path, adapter: Path | None = None) -> Any:
    network: Any = load_base(model, precision="float32", device="cpu")
    return network if adapter is None else load_adapter(network, adapter).get_base_model()


def draw_stops(network: Any, seed: int) -> frozenset[int]:
    vocabulary = network.config.text_config.vocab_size
    return frozenset(np.random.default_rng(seed).choice(vocabulary, vocabulary // 12, replace=False).tolist())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_it_says_what_plain_generation_says_however_few_slots_there_are(
    tiny_model: Path, seed: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twelfth of the vocabulary ends a text, so that slots become free at different times."""
    monkeypatch.setattr("tandem.evaluate.fast.engine.MOST_SLOTS", slots)
    network = load(tiny_model)
    prompts = make_prompts(network, seed=seed)
    stops = draw_stops(network, seed)
    plain = generate_plainly(network, prompts, stops=stops, new=40)
    assert generate(make_engine(network, prompts, stops=stops, new=40), prompts) == plain
    assert len({len(text) for text in plain}) > 3


def test_an_adapter_says_what_it_says_in_plain_generation(tiny_model: Path, tiny_adapter: Path) -> None:
    network = load(tiny_model, tiny_adapter)
    prompts = make_prompts(network, seed=7)
    plain = generate_plainly(network, prompts, stops=frozenset({10**6}), new=12)
    engine = make_engine(network, prompts, stops=frozenset({10**6}), new=12)
    assert engine.describe()["adapter"] == "beside"
    assert generate(engine, prompts) == plain
    assert plain != generate_plainly(load(tiny_model), prompts, stops=frozenset({10**6}), new=12)


@pytest.mark.parametrize("adapted", [False, True])
def test_forced_logits_are_those_of_transformers(tiny_model: Path, tiny_adapter: Path, adapted: bool) -> None:
    network = load(tiny_model, tiny_adapter if adapted else None)
    prompts = make_prompts(network, seed=11)
    texts = np.random.default_rng(2).integers(256, size=(len(prompts), 20)).tolist()
    plain = [force_plain(network, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    packed = force_packed(make_engine(network, prompts, stops=frozenset(), new=20), prompts, texts)
    for one, other in zip(plain, packed, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) < 1e-4
    assert float(plain[0].abs().max()) > 0.1


def test_joined_weights_leave_the_network_what_it_was(tiny_model: Path, tiny_adapter: Path) -> None:
    network = load(tiny_model, tiny_adapter)
    prompts = make_prompts(network, seed=5)
    before = [force_plain(network, prompt, [1, 2, 3]) for prompt in prompts]
    make_engine(network, prompts, stops=frozenset(), new=3)
    for prompt, logits in zip(prompts, before, strict=True):
        assert torch.equal(force_plain(network, prompt, [1, 2, 3]), logits)


def test_a_small_cache_makes_texts_wait_and_changes_none(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=3)
    stops = draw_stops(network, 3)
    roomy = make_engine(network, prompts, stops=stops, new=30)
    texts = generate(roomy, prompts)
    most = max(count_pages(len(prompt.ids) + 30) for prompt in prompts)
    monkeypatch.setattr("tandem.evaluate.fast.engine._measure_row", lambda *_, **__: (100, 0))
    tight = make_engine(network, prompts, stops=stops, new=30)
    assert tight.pages == most + 1 < roomy.pages
    assert tight.row_tokens == 100 < max(len(prompt.ids) for prompt in prompts)
    assert generate(tight, prompts) == texts


@pytest.mark.parametrize("pages", [0, 1, 63, 64, 1000, 123_456])
def test_room_that_differs_by_little_gives_the_same_budget_and_little_is_left_unused(pages: int) -> None:
    assert pages - pages // 32 <= round_room(pages) <= pages
    assert round_room(round_room(pages) + pages // 100) == round_room(pages)


def test_a_request_that_the_cache_can_never_hold_is_refused(tiny_model: Path) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=3)
    engine = make_engine(network, prompts[:1], stops=frozenset(), new=30)
    with pytest.raises(ValueError, match="more pages than the cache"):
        generate(engine, [Prompt(ids=[1] * 2000, pixels=prompts[0].pixels)])


@pytest.mark.parametrize("row_tokens", [16_384, 7])
def test_image_tokens_without_their_tiles_are_refused(tiny_model: Path, row_tokens: int) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=3)
    wrong = Prompt(ids=prompts[1].ids, pixels=prompts[1].pixels[:1])
    engine = shorten_rows(make_engine(network, [wrong], stops=frozenset(), new=4), row_tokens)
    with pytest.raises(ValueError, match="8 image tokens for 1 x 4 features"):
        generate(engine, [wrong])


def test_what_goes_wrong_while_loading_comes_out(tiny_model: Path) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=3)
    engine = make_engine(network, prompts, stops=frozenset(), new=4)

    def fail(_: int) -> Prompt:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(engine.generate([[Request(index=0, prompt_tokens=len(prompts[0].ids))]], fail, loaders=1))


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> Any:
    return load(tiny_model)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_prompt_read_in_chunks_says_what_it_says_in_one_row(network: Any, data: st.DataObject) -> None:
    image = network.config.image_token_id
    ids: list[int] = []
    for words in data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=6)):
        ids.extend([*range(words), *[image] * IMAGE_TOKENS])
    tiles = ids.count(image) // IMAGE_TOKENS
    drawn = np.random.default_rng(len(ids))
    prompt = Prompt(ids=ids, pixels=torch.from_numpy(drawn.integers(256, size=(tiles, 56, 56, 3), dtype=np.uint8)))
    whole = make_engine(network, [prompt], stops=frozenset(), new=6)
    chunked = shorten_rows(make_engine(network, [prompt], stops=frozenset(), new=6), data.draw(st.integers(1, 90)))
    text = generate(whole, [prompt])[0]
    assert generate(chunked, [prompt])[0] == text
    one, other = (force_packed(engine, [prompt], [text])[0] for engine in (whole, chunked))
    assert float((one - other).abs().max()) < 1e-5
    assert float((whole.cache.keys - chunked.cache.keys).abs().max()) < 1e-5


@pytest.mark.parametrize("row_tokens", [16, 50, 100])
def test_chunks_and_rows_side_by_side_change_no_text(
    tiny_model: Path, tiny_adapter: Path, row_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.evaluate.fast.engine.MOST_SLOTS", 3)
    network = load(tiny_model, tiny_adapter)
    prompts = make_prompts(network, seed=4)
    stops = draw_stops(network, 4)
    engine = make_engine(network, prompts, stops=stops, new=20)
    short = shorten_rows(engine, row_tokens)
    texts = generate(engine, prompts)
    read: list[int] = []

    def watch(queries: torch.Tensor, *others: Any) -> torch.Tensor:
        read.append(len(queries))
        return attend_last(queries, *others)

    monkeypatch.setattr("tandem.evaluate.fast.prefill.attend_last", watch)
    assert generate(short, prompts) == texts
    assert row_tokens / 2 - 1 < min(read) <= max(read) <= row_tokens


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 9), (4, 9), (9, 9)])
def test_a_prompts_last_tokens_attend_as_they_do_with_all_the_others(queries: int, keys: int) -> None:
    drawn = torch.Generator().manual_seed(keys)
    all_queries, all_keys, all_values = (torch.randn(keys, heads, 16, generator=drawn) for heads in (6, 2, 2))
    whole = attend_each(all_queries, all_keys, all_values, [keys])
    assert torch.allclose(
        attend_masked(all_queries[keys - queries :], all_keys, all_values), whole[-queries:], atol=1e-6
    )


def test_one_new_token_is_one(tiny_model: Path) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=9)
    plain = generate_plainly(network, prompts, stops=frozenset({10**6}), new=1)
    assert generate(make_engine(network, prompts, stops=frozenset({10**6}), new=1), prompts) == plain


def test_waiting_texts_enter_while_others_grow(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(tiny_model)
    prompts = make_prompts(network, seed=1)
    monkeypatch.setattr(schedule, "STEPS_BETWEEN", 2)
    monkeypatch.setattr("tandem.evaluate.fast.engine.MOST_SLOTS", 3)
    engine = make_engine(network, prompts, stops=draw_stops(network, 1), new=40)
    read: list[tuple[int, int]] = []
    whole = type(engine).read

    def watch(self: Engine, prompts: Sequence[Prompt], slots: Sequence[int], pages: Any) -> None:
        read.append((len(prompts), int(self.state.active.sum())))
        whole(self, prompts, slots, pages)

    monkeypatch.setattr(type(engine), "read", watch)
    generate(engine, prompts)
    assert sum(count for count, _ in read) == len(prompts)
    assert any(active for _, active in read[1:])


def test_pixels_are_normalised_bit_for_bit_as_elsewhere() -> None:
    drawn = np.random.default_rng(0).integers(256, size=(3, 56, 56, 3), dtype=np.uint8)
    tiles = [Image.fromarray(each) for each in drawn]
    stacked = stack_tiles(tiles, tile_size=56)
    assert torch.equal(normalise_pixels(stacked), normalise(tiles, tile_size=56))
    assert stack_tiles([], tile_size=56).shape == (0, 56, 56, 3)
