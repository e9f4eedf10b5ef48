from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tandem.model.fused_loss import fuse_head, sum_losses_fused
from tandem.model.internvl import find_labelled, select_labelled, sum_token_losses
from tandem.model.loading import load_base
from tandem.model.packed_attention import attend_within, describe_packing
from tandem.model.speed import Speed, make_fast, project_patches, set_checkpointing
from tandem.model.tiny import make_tiny_model
from tandem.spec.train import LoraSpec
from tandem.train.adapter import attach_adapter, trainable_weights

WAYS = {
    "packed attention": Speed(packed_attention=True),
    "fused loss": Speed(fused_loss=True),
    "fused LoRA": Speed(fused_lora=True),
    "all but compiled": Speed(packed_attention=True, fused_lora=True, fused_loss=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(path, seed=3)
    return path


def build(folder: Path, speed: Speed, *, checkpointed: bool = False, **lora: Any) -> Any:
    base: Any = load_base(folder, precision="float32", device="cpu")
    adapted = attach_adapter(base, LoraSpec(r=4, alpha=8, **{"dropout": 0.0, **lora}), seed=0, base="tiny")
    torch.manual_seed(1)
    for weight in trainable_weights(adapted):
        weight.data = torch.randn_like(weight) * 0.1
    assert make_fast(base, speed) == ()
    set_checkpointing(base, on=checkpointed)
    return adapted.train()


def make_batch(image_token: int, *, seed: int = 0, lengths: Sequence[int] = (25, 20, 15)) -> dict[str, torch.Tensor]:
    """Packed samples of one tile each, the first ten tokens of each the question."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 200, (1, sum(lengths)), generator=generator)
    labels = ids.clone()
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        start = end - length
        ids[0, start + 3 : start + 7] = image_token
        labels[0, start : start + 10] = -100
    return {
        "input_ids": ids,
        "labels": labels,
        "sequence_lengths": torch.tensor(lengths),
        "pixel_values": torch.randn((len(lengths), 3, 56, 56), generator=generator),
    }


def train(model: Any, *, steps: int) -> list[float]:
    """Losses of AdamW over two micro-batches in turn, with one normaliser."""
    optimizer = torch.optim.AdamW(trainable_weights(model), lr=2e-3)
    image_token = model.base_model.model.config.image_token_id
    losses = []
    for step in range(steps):
        loss = model(**make_batch(image_token, seed=step % 2), normaliser=40.0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def plain_losses(folder: Path) -> list[float]:
    return train(build(folder, Speed()), steps=50)


@pytest.mark.parametrize("way", WAYS)
def test_fifty_steps_have_the_losses_of_the_plain_way(folder: Path, plain_losses: list[float], way: str) -> None:
    losses = train(build(folder, WAYS[way]), steps=50)
    assert plain_losses[-1] < plain_losses[0] - 0.5
    assert losses == pytest.approx(plain_losses, abs=1e-4)


@pytest.fixture
def compiling() -> Iterator[None]:
    """torch.compile up to its last step, code in C++: not every machine has a compiler for that."""
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiling")
def test_compiled_layers_compute_the_same_and_are_compiled_for_the_first_length_alone(folder: Path) -> None:
    plain, compiled = build(folder, Speed()), build(folder, replace(WAYS["all but compiled"], compiled=True))
    image_token = plain.base_model.model.config.image_token_id
    for number, lengths in enumerate([(25, 20), (12, 31, 22, 40), (50, 17, 11)]):
        batch = make_batch(image_token, seed=number, lengths=lengths)
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            ours = compiled(**batch, normaliser=40.0).loss
        theirs = plain(**batch, normaliser=40.0).loss
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        slopes, expected = (
            torch.autograd.grad(loss, trainable_weights(model)) for loss, model in ((ours, compiled), (theirs, plain))
        )
        torch.testing.assert_close(slopes, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", [Speed(labels_only=False), Speed(labels_only=False, fused_loss=True)])
def test_logits_at_every_position_change_neither_the_loss_nor_a_gradient(folder: Path, way: Speed) -> None:
    models = [build(folder, Speed()), build(folder, way)]
    batch = make_batch(models[0].base_model.model.config.image_token_id)
    padded = {name: tensor for name, tensor in batch.items() if name != "sequence_lengths"}
    for given in (batch, padded | {"attention_mask": torch.ones_like(batch["input_ids"])}):
        losses = [model(**given).loss for model in models]
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
        for model, loss in zip(models, losses, strict=True):
            model.zero_grad()
            loss.backward()
        for one, other in zip(*(trainable_weights(model) for model in models), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_logits_at_every_position_are_as_many_as_positions(folder: Path) -> None:
    model = build(folder, Speed(labels_only=False))
    seen: list[int] = []
    head = model.get_base_model().lm_head
    head.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    model(**make_batch(model.base_model.model.config.image_token_id))
    assert seen == [59]


def test_checkpointing_changes_nothing_even_with_dropout(folder: Path) -> None:
    kept = build(folder, WAYS["all but compiled"], dropout=0.2)
    torch.manual_seed(7)
    plain = train(kept, steps=3)
    made_again = build(folder, WAYS["all but compiled"], checkpointed=True, dropout=0.2)
    torch.manual_seed(7)
    assert train(made_again, steps=3) == pytest.approx(plain, abs=1e-6)


def test_dropout_follows_the_seed_and_stops_in_evaluation(folder: Path) -> None:
    model = build(folder, WAYS["fused LoRA"], dropout=0.3)
    batch = make_batch(model.base_model.model.config.image_token_id)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(**batch).loss)

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)
    plain = build(folder, Speed(), dropout=0.3).eval()
    assert loss(1) == pytest.approx(float(plain(**batch).loss), abs=1e-5)


def test_the_adapter_of_a_fast_training_is_pefts(folder: Path) -> None:
    from peft import get_peft_model_state_dict

    plain, fast = build(folder, Speed()), build(folder, WAYS["all but compiled"])
    theirs, ours = get_peft_model_state_dict(plain), get_peft_model_state_dict(fast)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_base_weights_stay_what_they_were_and_are_held_once(folder: Path) -> None:
    plain, fast = build(folder, Speed()), build(folder, WAYS["all but compiled"])
    theirs, ours = plain.state_dict(), fast.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    layer = fast.base_model.model.model.language_model.layers[0].mlp
    gate, up = layer.gate_proj.base_layer.weight, layer.up_proj.base_layer.weight
    assert gate.untyped_storage().data_ptr() == up.untyped_storage().data_ptr()


def test_a_model_with_adapters_on_some_layers_only_goes_the_plain_way_and_says_so(folder: Path) -> None:
    base: Any = load_base(folder, precision="float32", device="cpu")
    lora = LoraSpec(r=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
    adapted = attach_adapter(base, lora, seed=0, base="tiny")
    notes = make_fast(base, Speed(fused_lora=True))
    assert notes == ("the language model is trained without fused LoRA: self_attn.k_proj has no adapter",)
    assert train(adapted.train(), steps=1)[0] > 0


def test_the_fused_loss_and_its_gradient_are_those_of_the_plain_one() -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 150, bias=False).requires_grad_(False)
    targets = torch.randint(0, 150, (23,))
    hidden = torch.randn(23, 8, requires_grad=True)
    plain = sum_token_losses(head, hidden, targets)
    (expected,) = torch.autograd.grad(plain / 7, hidden)
    fused = fuse_head(head)(head, hidden, targets)
    (slope,) = torch.autograd.grad(fused / 7, hidden)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(slope, expected)
    in_parts = sum_losses_fused(head.weight, hidden, targets, classes=150, logits_at_once=600)
    torch.testing.assert_close(in_parts, plain)


def test_a_head_that_learns_keeps_the_plain_loss() -> None:
    with pytest.raises(ValueError, match="frozen"):
        fuse_head(nn.Linear(8, 16, bias=False))


def test_attention_stays_within_each_sample_and_shares_key_heads() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([5, 1, 9])
    packing = describe_packing(lengths, torch.device("cpu"))
    query, key, value = torch.randn(15, 4, 8), torch.randn(15, 2, 8), torch.randn(15, 2, 8)
    together = attend_within(query, key, value, packing.starts, packing.longest)
    start = 0
    for length in lengths.tolist():
        part = slice(start, start + length)
        alone = functional.scaled_dot_product_attention(
            query[part].transpose(0, 1),
            key[part].repeat_interleave(2, 1).transpose(0, 1),
            value[part].repeat_interleave(2, 1).transpose(0, 1),
            is_causal=True,
        )
        torch.testing.assert_close(together[part], alone.transpose(0, 1))
        start += length


def test_a_list_of_starts_is_filled_up_with_empty_samples() -> None:
    packing = describe_packing(torch.tensor([5, 7]), torch.device("cpu"))
    assert packing.starts.tolist() == [0, 5, 12] + [12] * (len(packing.starts) - 3)
    assert packing.longest >= 7


def test_patches_are_projected_as_by_the_convolution() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 16, kernel_size=14, stride=14)
    pixels = torch.randn(2, 3, 56, 28)
    torch.testing.assert_close(project_patches(convolution, pixels), convolution(pixels))


def test_labels_on_the_cpu_choose_the_same_states_as_beside_them() -> None:
    hidden, labels = torch.randn(1, 6, 4), torch.tensor([[-100, 3, 4, 5, -100, 6]])
    wanted = find_labelled(labels, torch.tensor([3, 3]))
    states, targets = select_labelled(hidden, labels, wanted)
    assert targets.tolist() == [3, 4, 6]
    torch.testing.assert_close(states, hidden[0, [0, 1, 4]])
