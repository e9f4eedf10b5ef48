from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from tandem.model.dropout_bits import draw_seeds, keep_mask
from tandem.model.lora_fused import lora_linear, lora_mlp, place_low_rank

ROWS, WIDE, INNER, RANK, SCALE = 7, 16, 24, 4, 2.0
SIZES = [16, 8, 8]


def draw(*shape: int, learns: bool = False) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=learns)


def with_room(gate_up: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The frozen matrix with the adapter's part behind it, as FusedDecoder keeps it."""
    joined = torch.cat([gate_up, gate_up.new_zeros((2 * INNER, 2 * RANK))], 1)
    place_low_rank(joined, b[:INNER].detach(), b[INNER:].detach(), SCALE)
    return joined


@pytest.fixture
def seeds() -> torch.Tensor:
    torch.manual_seed(0)
    return draw_seeds(1, 5, torch.device("cpu"))[0]


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gradients_of_the_linear_operator_are_those_of_finite_differences(seeds: torch.Tensor, p: float) -> None:
    weight, bias = draw(sum(SIZES), WIDE), draw(sum(SIZES))
    inputs = (draw(ROWS, WIDE, learns=True), draw(3 * RANK, WIDE, learns=True), draw(sum(SIZES), RANK, learns=True))

    def run(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return lora_linear(x, weight, bias, a, b, seeds[:2], SIZES, p=p, scale=SCALE)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gradients_of_the_mlp_operator_are_those_of_finite_differences(seeds: torch.Tensor, p: float) -> None:
    gate_up, down = draw(2 * INNER, WIDE), draw(WIDE, INNER)
    inputs = (
        draw(ROWS, WIDE, learns=True),
        draw(2 * RANK, WIDE, learns=True),
        draw(2 * INNER, RANK, learns=True),
        draw(RANK, INNER, learns=True),
        draw(WIDE, RANK, learns=True),
    )

    def run(x: Any, a: Any, b: Any, a_down: Any, b_down: Any) -> torch.Tensor:
        return lora_mlp(x, with_room(gate_up, b), down, a, b, a_down, b_down, seeds[3:], p=p, scale=SCALE)

    assert torch.autograd.gradcheck(run, inputs)


def make_peft_layer(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Any:
    base = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    base.weight.data = weight
    from peft import LoraConfig

    config = LoraConfig(r=RANK, lora_alpha=int(SCALE * RANK), lora_dropout=0.0)
    layer: Any = Linear(base, "default", config=config, r=RANK, lora_alpha=int(SCALE * RANK), lora_dropout=0.0)
    layer = layer.to(weight.dtype)
    layer.lora_A["default"].weight.data = a
    layer.lora_B["default"].weight.data = b
    return layer


def test_without_dropout_results_and_gradients_are_those_of_pefts_layers(seeds: torch.Tensor) -> None:
    weight, a, b = draw(sum(SIZES), WIDE), draw(3 * RANK, WIDE, learns=True), draw(sum(SIZES), RANK, learns=True)
    x, slope = draw(ROWS, WIDE, learns=True), draw(ROWS, sum(SIZES))
    ours = lora_linear(x, weight, None, a, b, seeds[:2], SIZES, p=0.0, scale=SCALE)
    torch.autograd.backward(ours, slope)
    parts = (torch.split(weight, SIZES), torch.split(a, RANK), torch.split(b, SIZES))
    layers = [
        make_peft_layer(part, part_a.detach().clone(), part_b.detach().clone())
        for part, part_a, part_b in zip(*parts, strict=True)
    ]
    given = x.detach().clone().requires_grad_()
    theirs = torch.cat([layer(given) for layer in layers], 1)
    torch.autograd.backward(theirs, slope)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(x.grad, given.grad)
    torch.testing.assert_close(a.grad, torch.cat([layer.lora_A["default"].weight.grad for layer in layers]))
    torch.testing.assert_close(b.grad, torch.cat([layer.lora_B["default"].weight.grad for layer in layers]))


def test_each_of_three_layers_drops_its_own_positions_of_the_shared_input(seeds: torch.Tensor) -> None:
    x = torch.ones(64, 32, dtype=torch.float64)
    weight, b = torch.zeros(96, 32, dtype=torch.float64), torch.eye(32, dtype=torch.float64).repeat(3, 1)
    a = torch.eye(32, dtype=torch.float64).repeat(3, 1)
    out = lora_linear(x, weight, None, a, b, seeds[:2], [32, 32, 32], p=0.25, scale=1.0)
    kept = [part != 0 for part in torch.split(out, 32, 1)]
    assert set(out.flatten().tolist()) == {0.0, 1 / 0.75}
    for index, other in ((0, 1), (0, 2), (1, 2)):
        agreement = (kept[index] == kept[other]).double().mean().item()
        assert abs(agreement - (0.75**2 + 0.25**2)) < 0.05


@pytest.mark.parametrize("half", [0, 1])
def test_the_share_of_dropped_positions_is_the_one_asked_for(seeds: torch.Tensor, half: int) -> None:
    dropped = 1 - keep_mask(seeds[0], 1000, 1000, half=half, p=0.05).double().mean().item()
    assert abs(dropped - 0.05) < 4 * (0.05 * 0.95 / 1e6) ** 0.5


def test_the_same_seed_gives_the_same_mask_and_another_seed_another(seeds: torch.Tensor) -> None:
    first, again = (keep_mask(seeds[0], 50, 50, half=0, p=0.5) for _ in range(2))
    other = keep_mask(seeds[1], 50, 50, half=0, p=0.5)
    assert torch.equal(first, again)
    assert 0.4 < (first == other).double().mean().item() < 0.6


def test_adapters_in_float32_learn_from_a_model_in_bfloat16(seeds: torch.Tensor) -> None:
    x = torch.randn(ROWS, WIDE, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(8, WIDE, dtype=torch.bfloat16)
    a, b = torch.randn(RANK, WIDE, requires_grad=True), torch.randn(8, RANK, requires_grad=True)
    y = lora_linear(x, weight, None, a, b, seeds[:1], [8], p=0.0, scale=SCALE)
    torch.autograd.backward(y.float().sum())
    assert y.dtype is torch.bfloat16
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.dtype is b.grad.dtype is torch.float32
    exact = functional.linear(x.float(), weight.float() + SCALE * b @ a)
    assert (y.float() - exact).norm() / exact.norm() < 0.02
