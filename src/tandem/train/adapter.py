"""The LoRA adapter: put on the language model, and written as safetensors with its card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.model.card import AdapterCard, write_card
from tandem.spec import LoraSpec

WEIGHTS = "adapter_model.safetensors"


def attach_adapter(model: Any, lora: LoraSpec, *, seed: int, base: str) -> Any:
    """Freeze the model and put a new adapter on its language model; everything drawn comes from the seed.

    Returns a PeftModel. Raises BadConfiguration for a target that the language model does not have.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    _refuse_unknown_targets(model, lora)
    torch.manual_seed(seed)
    names = "|".join(re.escape(target) for target in lora.targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        # By a pattern: the vision tower's projections have the same names.
        target_modules=rf".*language_model.*\.({names})",
        bias="none",
    )
    adapted: Any = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    dtype = getattr(torch, lora.dtype.value)
    for weight in trainable_weights(adapted):
        weight.data = weight.data.to(dtype)
    return adapted


def trainable_weights(model: Any) -> list[Any]:
    """The parameters that learn."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def require_finite(model: Any, *, step: int) -> None:
    """Raise BadData if the weights after a step are no finite numbers: they would be saved, and spoil all that follows.

    A gradient may overflow though the loss does not.
    """
    if all(bool(weight.isfinite().all()) for weight in trainable_weights(model)):
        return
    raise BadData(
        Fault(
            where=f"step {step}",
            what="the adapter's weights are no finite numbers any more: a gradient or an update was too large",
            remedy="Lower train.optimizer.learningRate or clipNorm; the checkpoints before it are sound.",
        )
    )


def save_adapter(model: Any, folder: Path, card: AdapterCard) -> None:
    """Write the adapter so that peft and tandem load it; the same weights give the same bytes."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
    write_card(folder, card)


def restore_adapter(model: Any, folder: Path) -> None:
    """Read the adapter's weights back into a model that has the same adapter, each in its own number format."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / WEIGHTS))


def _refuse_unknown_targets(model: Any, lora: LoraSpec) -> None:
    import torch

    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    unknown = [target for target in lora.targets if target not in linear]
    if unknown:
        raise BadConfiguration(
            Fault(
                where="train.lora.targets",
                what=f"the language model has no linear layer {', '.join(unknown)}",
                remedy=f"Choose from {', '.join(sorted(linear))}.",
            )
        )
