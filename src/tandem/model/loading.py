"""Loading base model, tokenizer and adapter from local folders: safetensors only, never a checkpoint's own code."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault, TandemError, Unavailable
from tandem.model.info import ModelInfo, read_model_info
from tandem.model.json_files import Size, read_object

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["ModelInfo", "load_adapter", "load_base", "load_tokenizer", "read_model_info"]

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
"""What InternVL's prompt is built from; each must be one token of the vocabulary."""

ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_SLACK = 2
"""How many times as many parameters a model may be said to have as its files hold: a tied output layer is not there."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer. Raises BadData if it is missing or lacks one of InternVL's special tokens."""
    from transformers import AutoTokenizer

    with library_faults(
        folder, "the tokenizer cannot be loaded", "Download tokenizer.json and tokenizer_config.json of it again."
    ):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        ready: Any = tokenizer
        vocabulary = ready.get_vocab()
        # transformers leaves this to tokenizer.json's rules and forgets the flag, which our prompts are built by.
        if ready.bos_token_id is not None and ready("")["input_ids"] == [ready.bos_token_id]:
            ready.add_bos_token = True
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"the tokenizer lacks {', '.join(missing)}",
                remedy="Use the tokenizer that was published with this InternVL checkpoint.",
            )
        )
    return tokenizer


def load_base(folder: Path, *, precision: str, device: str) -> nn.Module:
    """Load the base model, frozen nowhere, in evaluation mode.

    `precision` is float32 or bfloat16, `device` what torch calls it. Raises what read_model_info raises, and BadData
    if a weight is missing or of another shape than config.json says: nothing is ever filled in at random.
    """
    import torch

    from tandem.model.internvl import TrainableInternVL

    _refuse_larger_description(folder, read_model_info(folder))
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    with library_faults(folder, "the model cannot be loaded", "Download the checkpoint again."):
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
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    _refuse_missing_adapter(folder)
    another = "Use the base model that the adapter's tandem.json names."
    with library_faults(folder, "the adapter cannot be loaded on this base model", another):
        with safe_open(str(folder / ADAPTER_WEIGHTS), framework="np") as file:
            stored = {name: max(file.get_slice(name).get_shape(), default=0) for name in file.keys()}  # noqa: SIM118
        _refuse_other_adapters(folder, largest=max(stored.values(), default=0))
        adapted: PeftModel = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    astray = set(stored) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if astray:
        raise BadData(
            Fault(
                where=str(folder),
                what=f"{len(astray)} weights of adapter and base model do not match, {min(astray)} first",
                remedy=another,
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


class _AdapterSettings(BaseModel):
    """What adapter_config.json may say of sizes; peft reads the rest."""

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: Literal["LORA"]
    r: Size
    rank_pattern: dict[str, Size] | None = None
    layer_replication: Annotated[list[object], Field(max_length=0)] | None = None


def _refuse_other_adapters(folder: Path, *, largest: int) -> None:
    """Refuse settings for which more would be allocated than the weights' file holds; `largest` is its longest side."""
    path = folder / ADAPTER_SETTINGS
    try:
        settings = _AdapterSettings.model_validate(read_object(path))
    except ValidationError as error:
        raise BadData(
            [
                Fault(
                    where=f"{path}: {'.'.join(map(str, item['loc'][:1]))}",
                    what=item["msg"],
                    remedy="Use a LoRA adapter that tandem or peft wrote.",
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None
    rank = max(settings.r, *(settings.rank_pattern or {}).values(), 0)
    if rank > largest:
        what = f"the rank is {rank}, and no matrix of {ADAPTER_WEIGHTS} has so many rows or columns"
        raise BadData(Fault(where=f"{path}: r", what=what, remedy="Take both files again from where they come from."))


def _refuse_larger_description(folder: Path, info: ModelInfo) -> None:
    """Refuse a config.json that describes a far larger model than the weights' files hold: it would be allocated."""
    from tandem.model.convert import expect_weights

    shapes = expect_weights(read_object(folder / "config.json"), tied=False, where=folder).values()
    described = sum(math.prod(shape) for shape in shapes)
    if described > _SLACK * info.parameters:
        what = f"describes {described} parameters, and the weights' files hold {info.parameters}"
        raise BadData(Fault(where=str(folder / "config.json"), what=what, remedy="Download the checkpoint again."))


@contextmanager
def library_faults(where: Path, what: str, remedy: str) -> Iterator[None]:
    """Whatever transformers, peft and tokenizers raise for broken files, as BadData; a failing disk as Unavailable.

    Lack of memory stays what it is.
    """
    try:
        yield
    except (TandemError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None or error.errno == errno.ENOENT:
            raise BadData(_broken(where, what, error, remedy)) from None
        raise Unavailable(_broken(where, what, error, "Try again; check the disk.")) from None
    except Exception as error:  # the libraries raise nothing narrower for files that they do not expect
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise BadData(_broken(where, what, error, remedy)) from None


def _broken(where: Path, what: str, error: Exception, remedy: str) -> Fault:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return Fault(where=str(where), what=f"{what} ({reason})", remedy=remedy)
