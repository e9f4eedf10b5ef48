"""Run by test_kernel.py in a process of its own: Triton must be imported as an interpreter."""

from __future__ import annotations

import pytest
import torch

from tandem.evaluate.fast.attention import attend_each, attend_gathered
from tandem.evaluate.fast.cache import PAGE, count_pages
from tandem.evaluate.fast.kernel import attend_paged_kernel


def make_inputs(lengths: list[int], *, heads: int, key_heads: int, size: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys, values, pages, lengths; pages are dealt out at random, and unused ones hold large numbers."""
    drawn = torch.Generator().manual_seed(seed)
    most = count_pages(max(lengths))
    order = (torch.randperm(len(lengths) * most, generator=drawn) + 1).view(len(lengths), most)
    pages = torch.where(torch.arange(most) < torch.tensor([count_pages(n) for n in lengths]).unsqueeze(1), order, 0)
    tokens = (len(lengths) * most + 1) * PAGE
    keys, values = (10 * torch.randn(tokens, key_heads, size, generator=drawn) for _ in range(2))
    queries = torch.randn(len(lengths), heads, size, generator=drawn)
    return queries, keys, values, pages.int(), torch.tensor(lengths, dtype=torch.int32)


LENGTHS = [[1, 64, 65, 0], [700, 3, 512, 513], [1100, 0, 1, 1024]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(12, 2, 16), (4, 4, 32), (7, 1, 16)])
def test_the_kernel_finds_what_its_reference_finds(lengths: list[int], heads: int, key_heads: int, size: int) -> None:
    inputs = make_inputs(lengths, heads=heads, key_heads=key_heads, size=size, seed=len(lengths) + heads)
    found, expected = attend_paged_kernel(*inputs), attend_gathered(*inputs)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[inputs[4] == 0], torch.zeros_like(found[inputs[4] == 0]))


@pytest.mark.parametrize("lengths", LENGTHS[1:])
def test_the_reference_is_the_last_row_of_causal_attention(lengths: list[int]) -> None:
    lengths = [max(1, length) for length in lengths]
    queries, keys, values, pages, _ = make_inputs(lengths, heads=6, key_heads=2, size=16, seed=1)
    found = attend_gathered(queries, keys, values, pages, torch.tensor(lengths, dtype=torch.int32))
    for slot, length in enumerate(lengths):
        tokens = (pages[slot].long().unsqueeze(1) * PAGE + torch.arange(PAGE)).flatten()[:length]
        rows = queries[slot].expand(length, -1, -1)
        whole = attend_each(rows, keys[tokens], values[tokens], [length])
        assert torch.allclose(found[slot], whole[-1], atol=1e-5)
