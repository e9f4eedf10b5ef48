"""Run by test_lora_kernels.py in a process of its own: Triton must be imported as an interpreter.

References are the plain ways of lora_fused.py, which CPU tensors take there, and torch's own cross-entropy.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from tandem.model import lora_fused, lora_kernels
from tandem.model.dropout_bits import draw_seeds

ROWS, COLUMNS = 77, 150
"""No multiple of any tile."""


@pytest.fixture(params=[lora_kernels.PROGRAMS, 2])
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile for each program of a reduction, and several."""
    monkeypatch.setattr(lora_kernels, "PROGRAMS", request.param)


@pytest.fixture
def seeds() -> torch.Tensor:
    torch.manual_seed(0)
    return draw_seeds(1, 2, torch.device("cpu"))[0]


def draw(*shape: int) -> torch.Tensor:
    """So that sums over a matrix's rows, and over its columns, are about 1."""
    return torch.randn(shape) / math.sqrt(max(shape))


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("groups", "rank"), [(1, 4), (2, 16), (3, 20)])
def test_the_way_into_low_ranks(seeds: torch.Tensor, groups: int, rank: int, p: float) -> None:
    x, a = draw(ROWS, COLUMNS + 9)[:, :COLUMNS], draw(groups * rank, COLUMNS)
    ours = lora_kernels.low_rank_in(x, a, seeds, groups, p)
    assert_equal(ours, lora_fused.low_rank_in(x, a, seeds, groups, p))


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("groups", "rank"), [(1, 4), (2, 16), (3, 20)])
def test_the_way_back_from_low_ranks(seeds: torch.Tensor, groups: int, rank: int, p: float) -> None:
    x, a = draw(ROWS, COLUMNS + 9)[:, :COLUMNS], draw(groups * rank, COLUMNS)
    dh, dx = draw(ROWS, groups * rank), draw(ROWS, COLUMNS)
    plain_dx = dx.clone()
    da = lora_kernels.low_rank_back(x, dx, dh, a, seeds, groups, p)
    assert_equal(da, lora_fused.low_rank_back(x, plain_dx, dh, a, seeds, groups, p))
    assert_equal(dx, plain_dx)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("rank", [4, 20])
def test_the_gated_activation_and_its_low_rank(seeds: torch.Tensor, rank: int, p: float) -> None:
    gate_up, a = torch.randn(ROWS, 2 * COLUMNS), draw(rank, COLUMNS)
    ours = lora_kernels.swiglu_in(gate_up, a, seeds, p)
    for our, their in zip(ours, lora_fused.swiglu_in(gate_up, a, seeds, p), strict=True):
        assert_equal(our, their)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("rank", [4, 20])
def test_the_way_back_through_the_gated_activation(seeds: torch.Tensor, rank: int, p: float) -> None:
    gate_up, a = torch.randn(ROWS, 2 * COLUMNS), draw(rank, COLUMNS)
    dact, dh = torch.randn(ROWS, COLUMNS), draw(ROWS, rank)
    ours = lora_kernels.swiglu_back(dact, gate_up, dh, a, seeds, p)
    for our, their in zip(ours, lora_fused.swiglu_back(dact, gate_up, dh, a, seeds, p), strict=True):
        assert_equal(our, their)


@pytest.mark.parametrize(("classes", "filled"), [(100, 128), (4096, 4096), (5000, 5120)])
def test_the_loss_and_its_gradient_in_the_logits_place(classes: int, filled: int) -> None:
    torch.manual_seed(0)
    known = (10 * torch.randn(7, classes)).requires_grad_()
    targets = torch.randint(0, classes, (7,))
    theirs = functional.cross_entropy(known, targets, reduction="none")
    (slope,) = torch.autograd.grad(theirs.sum(), known)
    logits = functional.pad(known.detach(), (0, filled - classes), value=50.0)
    assert_equal(lora_kernels.cross_entropy(logits, targets, classes), theirs)
    assert_equal(logits[:, :classes], slope)
    assert not logits[:, classes:].any()
