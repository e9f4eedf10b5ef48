"""Loading base model, tokenizer and adapter from local folders: safetensors only, never a checkpoint's own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import BadData, Fault
from tandem.model.info import ModelInfo, read_model_info

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["ModelInfo", "load_adapter", "load_base", "load_tokenizer", "read_model_info"]

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
"""What InternVL's prompt is built from; each must be one token of the vocabulary."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer. Raises BadData if it is missing or lacks one of InternVL's special tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"the tokenizer cannot be loaded ({_first_line(error)})",
                remedy="Download tokenizer.json and tokenizer_config.json of this checkpoint again.",
            )
        ) from None
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"the tokenizer lacks {', '.join(missing)}",
                remedy="Use the tokenizer that was published with this InternVL checkpoint.",
            )
        )
    # transformers leaves this to tokenizer.json's rules and forgets the flag, which our prompts are built by.
    ready: Any = tokenizer
    if ready.bos_token_id is not None and ready("")["input_ids"] == [ready.bos_token_id]:
        ready.add_bos_token = True
    return tokenizer


def load_base(folder: Path, *, precision: str, device: str) -> nn.Module:
    """Load the base model, frozen nowhere, in evaluation mode.

    `precision` is float32 or bfloat16, `device` what torch calls it. Raises what read_model_info raises, and BadData
    if a weight is missing or of another shape than config.json says: nothing is ever filled in at random.
    """
    import torch

    from tandem.model.internvl import TrainableInternVL

    read_model_info(folder)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    loaded: Any = TrainableInternVL.from_pretrained(
        str(folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model, report = loaded
    faults = [
        Fault(
            where=str(folder),
            what=f"{len(names)} weights {problem}, {names[0]} first",
            remedy="Download the checkpoint again, or mend its config.json.",
        )
        for problem, names in (
            ("are missing", sorted(report["missing_keys"])),
            ("have another shape than config.json says", sorted(str(item[0]) for item in report["mismatched_keys"])),
            ("belong to no layer", sorted(report["unexpected_keys"])),
        )
        if names
    ]
    if faults:
        raise BadData(faults)
    ready: nn.Module = model.to(device).eval()
    return ready


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Put an adapter on a base model; every weight of the file must find its place, and every place a weight.

    Raises BadData if the adapter is missing, not safetensors, damaged, or made for another model.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    _refuse_missing_adapter(folder)
    try:
        with safe_open(str(folder / ADAPTER_WEIGHTS), framework="np") as file:
            stored = set(file.keys())
        adapted: PeftModel = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"the adapter cannot be loaded on this base model ({' '.join(str(error).split())[:300]})",
                remedy="Use the base model that the adapter's tandem.json names.",
            )
        ) from None
    astray = stored ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if astray:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"{len(astray)} weights of adapter and base model do not match, {min(astray)} first",
                remedy="Use the base model that the adapter's tandem.json names.",
            )
        )
    return adapted.train() if trainable else adapted.eval()


def _refuse_missing_adapter(folder: Path) -> None:
    faults = []
    if not (folder / "adapter_config.json").is_file():
        faults.append(
            Fault(
                where=str(folder),
                what="holds no adapter_config.json",
                remedy="Give the folder of an adapter, such as a training's output/adapter.",
            )
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        faults.append(
            Fault(
                where=str(folder),
                what=f"holds no {ADAPTER_WEIGHTS}" + (", only a .bin that can run code when loaded" if pickled else ""),
                remedy="Use an adapter whose weights are in safetensors files.",
            )
        )
    if faults:
        raise BadData(faults)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
