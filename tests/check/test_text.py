from __future__ import annotations

import pytest

from tandem.check.text import draw_bytes, draw_facts


def test_facts_are_shown_section_by_section_with_readable_numbers() -> None:
    facts = {
        "run": "demo-0123456789",
        "train": {
            "samples": 4800,
            "longest_prompt": 72,
            "tokens": {"mean": 59.0, "total": 283432},
            "memory": {"micro_batch_tokens": 1024, "weights": 2506496},
        },
        "evals": {"base": {"tiles": 400, "memory": {"total": 3 * 2**30}}},
    }
    assert draw_facts(facts).splitlines() == [
        "run  demo-0123456789",
        "train",
        "  samples         4,800",
        "  longest prompt  72",
        "  tokens: mean 59.0, total 283,432",
        "  memory: micro batch tokens 1,024, weights 2.39 MiB",
        "evals",
        "  base",
        "    tiles  400",
        "    memory: total 3 GiB",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (2**30, "1 GiB"), (78 * 2**30, "78 GiB"), (2**60, "1.049e+06 TiB")],
)
def test_bytes_are_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert draw_bytes(count) == text
