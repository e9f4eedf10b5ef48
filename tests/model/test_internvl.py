from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from tandem.model.internvl import (
    IGNORED,
    TrainableInternVL,
    find_labelled,
    mask_between_samples,
    restart_positions,
    select_labelled,
    sum_token_losses,
)
from tandem.model.tiny import make_tiny_model

TOKENS_PER_TILE = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(path, seed=1)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    loaded, report = TrainableInternVL.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    return loaded.eval()


def load_parent(folder: Path) -> Any:
    loaded: Any = InternVLForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32)
    return loaded.eval()


def make_sample(model: Any, *, seed: int, length: int, tiles: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (length,), generator=generator)
    ids[1 : 1 + tiles * TOKENS_PER_TILE] = model.config.image_token_id
    labels = ids.clone()
    labels[: length - 5] = IGNORED
    return {"ids": ids, "labels": labels, "pixels": torch.randn(tiles, 3, 56, 56, generator=generator)}


def loss_of(model: Any, samples: list[dict[str, torch.Tensor]], **how: Any) -> torch.Tensor:
    pixels = torch.cat([sample["pixels"] for sample in samples])
    loss: torch.Tensor = model(pixel_values=pixels if len(pixels) else None, **how).loss
    return loss


def packed(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat([sample["ids"] for sample in samples])[None],
        "labels": torch.cat([sample["labels"] for sample in samples])[None],
        "sequence_lengths": torch.tensor([len(sample["ids"]) for sample in samples]),
    }


def padded(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    def stack(name: str, filler: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([sample[name] for sample in samples], True, filler)

    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(sample["ids"]) for sample in samples], True, 0)
    return {"input_ids": stack("ids", 0), "labels": stack("labels", IGNORED), "attention_mask": mask}


@pytest.fixture
def samples(model: Any) -> list[dict[str, torch.Tensor]]:
    shapes = [(20, 1), (33, 3), (17, 0), (40, 2)]
    return [make_sample(model, seed=n, length=length, tiles=tiles) for n, (length, tiles) in enumerate(shapes)]


def test_the_loss_at_labels_only_is_the_parents_loss_over_all_logits(
    folder: Path, model: Any, samples: list[dict[str, torch.Tensor]]
) -> None:
    parent = load_parent(folder)
    sample = samples[1]
    full = parent(input_ids=sample["ids"][None], pixel_values=sample["pixels"])
    expected = functional.cross_entropy(full.logits[0, :-1].float(), sample["labels"][1:], ignore_index=IGNORED)
    found = loss_of(model, [sample], input_ids=sample["ids"][None], labels=sample["labels"][None])
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_packed_padded_and_one_by_one_losses_agree(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    alone = sum(loss_of(model, [sample], **packed([sample]), normaliser=7.0).item() for sample in samples)
    assert loss_of(model, samples, **packed(samples), normaliser=7.0).item() == pytest.approx(alone, abs=1e-5)
    assert loss_of(model, samples, **padded(samples), normaliser=7.0).item() == pytest.approx(alone, abs=1e-5)


def test_packed_and_one_by_one_gradients_agree(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    loss_of(model, samples, **packed(samples), normaliser=7.0).backward()  # type: ignore[no-untyped-call]
    together = weight.grad.clone()
    model.zero_grad()
    for sample in samples:
        loss_of(model, [sample], **packed([sample]), normaliser=7.0).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(together, weight.grad, atol=1e-5, rtol=1e-4)
    model.zero_grad()


def test_a_packed_sample_is_not_touched_by_its_neighbours(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    first, second = samples[0], samples[1]
    alone = model._encode(first["ids"][None], first["pixels"], None, torch.tensor([20]))
    both = packed([second, first])
    hidden = model._encode(
        both["input_ids"], torch.cat([second["pixels"], first["pixels"]]), None, both["sequence_lengths"]
    )
    torch.testing.assert_close(hidden[:, 33:], alone, atol=1e-5, rtol=1e-4)


def test_without_the_mask_the_neighbours_would_be_seen(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    apart = loss_of(model, samples, **packed(samples), normaliser=1.0)
    joined = {**packed(samples), "sequence_lengths": torch.tensor([110])}
    assert abs(loss_of(model, samples, **joined, normaliser=1.0).item() - apart.item()) > 1e-2


def test_a_literal_pad_token_in_the_text_is_seen_and_learnt(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    text = {name: value.clone() for name, value in samples[2].items()}
    text["ids"][-2] = text["labels"][-2] = 0  # id 0 is what padded() fills with
    alone = loss_of(model, [text], **packed([text]), normaliser=1.0).item()
    partner = {"ids": torch.ones(30, dtype=torch.long), "labels": torch.full((30,), IGNORED), "pixels": text["pixels"]}
    assert loss_of(model, [text, partner], **padded([text, partner]), normaliser=1.0).item() == pytest.approx(
        alone, abs=1e-5
    )


def test_positions_start_again_with_each_packed_sample() -> None:
    assert restart_positions(torch.tensor([2, 3]), torch.device("cpu")).tolist() == [[0, 1, 0, 1, 2]]


def test_the_mask_looks_back_within_one_sample_only() -> None:
    mask = mask_between_samples(torch.tensor([2, 1]), torch.device("cpu"))
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_a_label_at_the_start_of_a_packed_sample_is_predicted_by_nothing() -> None:
    hidden = torch.arange(5.0)[None, :, None]
    labels = torch.tensor([[9, 1, 8, 2, 3]])
    states, targets = select_labelled(hidden, labels, find_labelled(labels, torch.tensor([2, 3])))
    assert states.flatten().tolist() == [0.0, 2.0, 3.0]
    assert targets.tolist() == [1, 2, 3]


def test_the_loss_in_chunks_and_its_gradient_equal_the_loss_in_one() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False).requires_grad_(False)
    targets = torch.randint(0, 50, (23,))
    whole = torch.randn(23, 8, requires_grad=True)
    parts = whole.detach().clone().requires_grad_()
    one = sum_token_losses(head, whole, targets)
    many = sum_token_losses(head, parts, targets, logits_at_once=200)
    assert many.item() == pytest.approx(one.item(), rel=1e-6)
    torch.autograd.backward([one, many])
    torch.testing.assert_close(whole.grad, parts.grad)


def test_the_chunked_loss_keeps_no_logits_for_the_gradient() -> None:
    head = torch.nn.Linear(8, 1000, bias=False).requires_grad_(False)
    hidden = torch.randn(400, 8, requires_grad=True)
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        sum_token_losses(head, hidden, torch.zeros(400, dtype=torch.long), logits_at_once=10_000)
    assert sum(kept) < 400 * 1000 / 10


def test_a_micro_batch_without_labels_has_loss_and_gradient_zero(
    model: Any, samples: list[dict[str, torch.Tensor]]
) -> None:
    sample = {**samples[2], "labels": torch.full((17,), IGNORED)}
    loss = loss_of(model, [sample], **packed([sample]), normaliser=3.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert float(model.model.language_model.layers[0].self_attn.q_proj.weight.grad.abs().sum()) == 0.0
    model.zero_grad()


def test_a_frozen_vision_tower_leaves_no_graph(model: Any, samples: list[dict[str, torch.Tensor]]) -> None:
    seen: list[bool] = []
    handle = model.model.multi_modal_projector.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.requires_grad)
    )
    try:
        loss_of(model, samples, **packed(samples))
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
        loss_of(model, samples, **packed(samples))
    finally:
        handle.remove()
        model.requires_grad_(True)
    assert seen == [True, False]


def test_image_tokens_that_do_not_match_the_tiles_are_refused(
    model: Any, samples: list[dict[str, torch.Tensor]]
) -> None:
    two = torch.zeros(2, 3, 56, 56)
    with pytest.raises(ValueError, match="12 image tokens for 8 image features"):
        model(
            input_ids=samples[1]["ids"][None],
            labels=samples[1]["labels"][None],
            pixel_values=two,
        )


def test_left_padded_generation_gives_what_the_parent_gives(folder: Path, model: Any) -> None:
    parent = load_parent(folder)
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    how = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    assert model.generate(input_ids=ids, **how).tolist() == parent.generate(input_ids=ids, **how).tolist()
    alone = parent.generate(input_ids=ids[:1, 5:], max_new_tokens=8, do_sample=False)
    assert model.generate(input_ids=ids, **how)[0, 12:].tolist() == alone[0, 7:].tolist()
