"""A RoBERTa of a few kilobytes, made from formulas: the same weights under any library version."""

from __future__ import annotations

import json
import math
from pathlib import Path

LAYERS = 3
_HIDDEN = 32
_MERGES = ["h e", "Ġ t", "Ġt he", "i n", "Ġ a", "e s", "o n", "Ġ Y", "Y es", "ĠY es", "m a", "o ma", "o r"]


def write_tiny_roberta(folder: Path) -> Path:
    """Write config, weights (safetensors) and byte-level BPE files; returns the folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _vocabulary()
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=_HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * _HIDDEN,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = RobertaModel(config)
    weights = {}
    for index, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        if not tensor.is_floating_point():
            continue
        if "LayerNorm" in name:
            weights[name] = torch.full(tensor.shape, 1.0 if name.endswith("weight") else 0.0)
        else:
            waves = [0.6 * math.sin(index * 1.7 + 12.9898 * i * i) for i in range(1, tensor.numel() + 1)]
            weights[name] = torch.tensor(waves, dtype=torch.float32).reshape(tensor.shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["RobertaModel"]}))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(_MERGES) + "\n")
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 64, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def _vocabulary() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    merged = [merge.replace(" ", "") for merge in _MERGES]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *symbols, *merged, "<mask>"]
    return {token: number for number, token in enumerate(tokens)}
