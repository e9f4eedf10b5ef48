from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.model.loading import load_base
from tandem.spec import LoraSpec
from tandem.train.adapter import attach_adapter, trainable_weights


def adapt(folder: Path, *, seed: int = 1, **settings: Any) -> Any:
    base = load_base(folder, precision="float32", device="cpu")
    return attach_adapter(base, LoraSpec.model_validate(settings), seed=seed, base="tiny")


def test_only_the_language_model_gets_an_adapter(tiny_model: Path) -> None:
    learning = [name for name, weight in adapt(tiny_model).named_parameters() if weight.requires_grad]
    assert len(learning) == 2 * 7 * 2  # layers x projections x (A, B)
    assert all("language_model" in name and "lora_" in name for name in learning)


def test_the_seed_alone_decides_the_first_weights(tiny_model: Path) -> None:
    import torch

    one, again, other = (adapt(tiny_model, seed=seed) for seed in (1, 1, 2))
    pairs = list(zip(trainable_weights(one), trainable_weights(again), trainable_weights(other), strict=True))
    assert all(torch.equal(left, right) for left, right, _ in pairs)
    assert not all(torch.equal(left, right) for left, _, right in pairs)


def test_the_adapter_has_the_number_format_asked_for(tiny_model: Path) -> None:
    assert {str(weight.dtype) for weight in trainable_weights(adapt(tiny_model, dtype="bfloat16"))} == {
        "torch.bfloat16"
    }


def test_a_target_that_the_language_model_does_not_have_is_refused(tiny_model: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"no linear layer wqkv\. Choose from down_proj, gate_proj"):
        adapt(tiny_model, targets=["q_proj", "wqkv"])
