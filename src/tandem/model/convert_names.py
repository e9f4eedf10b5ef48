"""Which weights of a remote-code checkpoint become which of a native one.

Names on both sides are facts of the published formats: OpenGVLab/InternVL 2410d1d (`modeling_intern_vit.py`,
`modeling_internvl_chat.py`, `modeling_internlm2.py`), and the `-hf` checkpoints, whose layout transformers and vLLM
both load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tandem.model.convert_config import INTERNLM2, RemoteConfig, RemoteText

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_PARAMETER = re.compile(r"\.(weight|bias)$")

_VISION_OLD, _VISION_NEW = "vision_model.encoder.layers.#", "vision_tower.encoder.layer.#"
_TEXT = "language_model.model.layers.#"

_SHARED = {
    "vision_model.embeddings.class_embedding": "vision_tower.embeddings.cls_token",
    "vision_model.embeddings.position_embedding": "vision_tower.embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding": "vision_tower.embeddings.patch_embeddings.projection",
    f"{_VISION_OLD}.ls1": f"{_VISION_NEW}.lambda_1",
    f"{_VISION_OLD}.ls2": f"{_VISION_NEW}.lambda_2",
    f"{_VISION_OLD}.norm1": f"{_VISION_NEW}.layernorm_before",
    f"{_VISION_OLD}.norm2": f"{_VISION_NEW}.layernorm_after",
    f"{_VISION_OLD}.attn.proj": f"{_VISION_NEW}.attention.projection_layer",
    f"{_VISION_OLD}.attn.q_norm": f"{_VISION_NEW}.attention.q_norm",
    f"{_VISION_OLD}.attn.k_norm": f"{_VISION_NEW}.attention.k_norm",
    f"{_VISION_OLD}.mlp.fc1": f"{_VISION_NEW}.mlp.fc1",
    f"{_VISION_OLD}.mlp.fc2": f"{_VISION_NEW}.mlp.fc2",
    "mlp1.0": "multi_modal_projector.layer_norm",
    "mlp1.1": "multi_modal_projector.linear_1",
    "mlp1.3": "multi_modal_projector.linear_2",
}
_INTERNLM2 = {
    "language_model.model.tok_embeddings": "language_model.model.embed_tokens",
    "language_model.model.norm": "language_model.model.norm",
    "language_model.output": "language_model.lm_head",
    f"{_TEXT}.attention_norm": f"{_TEXT}.input_layernorm",
    f"{_TEXT}.ffn_norm": f"{_TEXT}.post_attention_layernorm",
    f"{_TEXT}.attention.wo": f"{_TEXT}.self_attn.o_proj",
    f"{_TEXT}.feed_forward.w1": f"{_TEXT}.mlp.gate_proj",
    f"{_TEXT}.feed_forward.w2": f"{_TEXT}.mlp.down_proj",
    f"{_TEXT}.feed_forward.w3": f"{_TEXT}.mlp.up_proj",
}


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Some rows of a weight: its first axis is `blocks` blocks of `parts` equal parts; `first` to `last` of each."""

    blocks: int
    parts: int
    first: int
    last: int
    """Exclusive."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the rows; None if the weight cannot be divided so."""
        if not shape or shape[0] % (self.blocks * self.parts):
            return None
        return (shape[0] // self.parts * (self.last - self.first), *shape[1:])


def is_ignored(name: str) -> bool:
    """Whether the weight is one that the model computes by itself (older versions stored it)."""
    return name.endswith(".rotary_emb.inv_freq")


def map_name(name: str, config: RemoteConfig) -> dict[str, Cut | None]:
    """The native weights that this one becomes, with the rows that each takes; empty if it has no place."""
    layer = _LAYER.search(name)
    parameter = _PARAMETER.search(name)
    suffix = parameter.group() if parameter else ""
    stem = _LAYER.sub(".layers.#.", name, count=1).removesuffix(suffix)
    number = layer.group(1) if layer else ""
    return {target.replace("#", number) + suffix: cut for target, cut in _map_stem(stem, config).items()}


def _map_stem(stem: str, config: RemoteConfig) -> dict[str, Cut | None]:
    if stem == f"{_VISION_OLD}.attn.qkv":
        place = f"{_VISION_NEW}.attention"
        return {
            f"{place}.{name}_proj": Cut(blocks=1, parts=3, first=part, last=part + 1) for part, name in enumerate("qkv")
        }
    if stem in _SHARED:
        return {_SHARED[stem]: None}
    if not stem.startswith("language_model."):
        return {}
    if config.llm_config.architecture != INTERNLM2:
        return {stem: None}  # the original uses transformers' own Qwen2
    if stem == f"{_TEXT}.attention.wqkv":
        return _cut_grouped(config.llm_config)
    return {_INTERNLM2[stem]: None} if stem in _INTERNLM2 else {}


def _cut_grouped(text: RemoteText) -> dict[str, Cut | None]:
    """InternLM2 stores, for each key-value head, the queries that share it, then its key, then its value."""
    queries = text.num_attention_heads // text.num_key_value_heads
    bounds = {"q_proj": (0, queries), "k_proj": (queries, queries + 1), "v_proj": (queries + 1, queries + 2)}
    return {
        f"{_TEXT}.self_attn.{name}": Cut(blocks=text.num_key_value_heads, parts=queries + 2, first=first, last=last)
        for name, (first, last) in bounds.items()
    }
