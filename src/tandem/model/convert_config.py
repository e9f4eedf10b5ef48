"""What a remote-code checkpoint's config.json says, and the same as a native InternVL's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import BadData, Fault
from tandem.model.json_files import Layers, Size, read_object
from tandem.model.prompt import TEMPLATES

QWEN2, INTERNLM2 = "Qwen2ForCausalLM", "InternLM2ForCausalLM"

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
TokenIds = int | list[int] | None


class Section(BaseModel):
    """A part of the remote-code config.json: what decides the model's numbers is checked, the rest is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class RemoteVision(Section):
    """vision_config, with the defaults of the original's InternVisionConfig."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    image_size: Size
    patch_size: Size
    num_channels: Literal[3] = 3
    hidden_act: Literal["gelu"] = "gelu"
    norm_type: Literal["layer_norm", "rms_norm"] = "rms_norm"
    layer_norm_eps: Positive = 1e-6
    attention_dropout: Share = 0.0
    dropout: Share = 0.0
    qkv_bias: bool = False
    qk_normalization: bool = True
    initializer_factor: float = 0.1
    initializer_range: float = 0.02


class RopeScaling(Section):
    """How the rotation is stretched for sequences longer than the model was made for."""

    type: Annotated[Literal["dynamic", "linear"], Field(validation_alias=AliasChoices("type", "rope_type"))]
    factor: Annotated[float, Field(ge=1)]


class RemoteText(Section):
    """llm_config, with the defaults of the original; what InternLM2 and Qwen2 have different ones for is required."""

    architectures: Annotated[list[str], Field(min_length=1)]
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    max_position_embeddings: Size
    rms_norm_eps: Positive
    rope_theta: Positive
    rope_scaling: RopeScaling | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_dropout: Share = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_sliding_window: Literal[False] = False
    bias: bool = True
    """InternLM2 only: whether the attention's linear layers have one."""
    bos_token_id: TokenIds = None
    eos_token_id: TokenIds = None
    pad_token_id: TokenIds = None

    @property
    def architecture(self) -> str:
        """The class that the original builds."""
        return self.architectures[0]


class RemoteConfig(Section):
    """config.json, with the defaults of the original's InternVLChatConfig."""

    vision_config: RemoteVision
    llm_config: RemoteText
    template: str
    system_message: str | None = None
    downsample_ratio: Annotated[float, Field(ge=0.5, le=0.5)] = 0.5
    force_image_size: Size | None = None
    ps_version: Literal["v2"]
    select_layer: Literal[-1] = -1
    use_backbone_lora: Literal[0] = 0
    use_llm_lora: Literal[0] = 0
    dynamic_image_size: bool = False
    min_dynamic_patch: Size = 1
    max_dynamic_patch: Size = 6

    @property
    def tile_size(self) -> int:
        """Pixels of a tile's side."""
        return self.force_image_size or self.vision_config.image_size

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that one tile becomes."""
        return (self.tile_size // self.vision_config.patch_size // 2) ** 2

    @property
    def system(self) -> str:
        """The system message of conversations that bring none."""
        return self.system_message or TEMPLATES[self.template].system_message


def read_remote_config(folder: Path) -> RemoteConfig:
    """Read config.json of a remote-code checkpoint. Raises BadData with everything that the converter cannot carry."""
    path = folder / "config.json"
    value = read_object(path)
    kind = value.get("model_type")
    if kind == "internvl":
        raise BadData(
            Fault(where=str(path), what="the model is in the native format already", remedy="Use it as it is.")
        )
    if kind != "internvl_chat":
        raise BadData(
            Fault(
                where=str(path),
                what=f"the model's type is {str(kind)[:60]!r}, not 'internvl_chat'",
                remedy="Give an InternVL2.5 or InternVL3 checkpoint in the remote-code format.",
            )
        )
    try:
        config = RemoteConfig.model_validate(value)
    except ValidationError as error:
        raise BadData(
            [
                Fault(
                    where=f"{path}: {'.'.join(str(part) for part in item['loc'])}",
                    what=item["msg"],
                    remedy="See docs/real-checkpoints.md for what can be converted.",
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None
    faults = [
        Fault(where=f"{path}: {place}", what=what, remedy="See docs/real-checkpoints.md for what can be converted.")
        for place, what in _mismatches(config)
    ]
    if faults:
        raise BadData(faults)
    return config


def _mismatches(config: RemoteConfig) -> list[tuple[str, str]]:
    vision, text = config.vision_config, config.llm_config
    architecture, scaling = text.architecture, text.rope_scaling
    checks = (
        (
            architecture not in (QWEN2, INTERNLM2),
            "llm_config.architectures",
            f"the language model {architecture[:60]!r} is neither {QWEN2} nor {INTERNLM2}",
        ),
        (config.template not in TEMPLATES, "template", f"{config.template[:60]!r} is not a template that tandem knows"),
        (
            config.tile_size != vision.image_size,
            "force_image_size",
            f"is {config.tile_size}, while vision_config.image_size is {vision.image_size}",
        ),
        (vision.image_size % (2 * vision.patch_size), "vision_config.image_size", "is no multiple of two patches"),
        (vision.hidden_size % vision.num_attention_heads, "vision_config.hidden_size", "is no multiple of the heads"),
        (
            text.hidden_size % (2 * text.num_attention_heads),
            "llm_config.hidden_size",
            "is no even multiple of the heads",
        ),
        (
            text.num_attention_heads % text.num_key_value_heads,
            "llm_config.num_key_value_heads",
            "does not divide num_attention_heads",
        ),
        (
            vision.qk_normalization and vision.layer_norm_eps != 1e-6,
            "vision_config.layer_norm_eps",
            "is not 1e-06, which the native model's normalised queries and keys are fixed to",
        ),
        (
            architecture == QWEN2 and scaling is not None and scaling.type != "dynamic",
            "llm_config.rope_scaling",
            "the original's Qwen2 does not scale so, the native one would",
        ),
    )
    return [(place, what) for wrong, place, what in checks if wrong]


def describe_native(config: RemoteConfig, *, image_token_id: int, dtype: str, tied: bool) -> dict[str, Any]:
    """The settings of transformers' InternVLConfig that give the same numbers.

    `tied`: the output layer is the embedding (its weight is not stored).
    """
    vision, text = config.vision_config, config.llm_config
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "dtype": dtype,
        "image_token_id": image_token_id,
        "image_seq_length": config.tokens_per_tile,
        "downsample_ratio": config.downsample_ratio,
        "vision_feature_layer": config.select_layer,
        "tie_word_embeddings": tied,
        "vision_config": {
            **vision.model_dump(
                include={
                    "hidden_size",
                    "intermediate_size",
                    "num_hidden_layers",
                    "num_attention_heads",
                    "num_channels",
                    "hidden_act",
                    "norm_type",
                    "layer_norm_eps",
                    "attention_dropout",
                    "initializer_range",
                }
            ),
            "image_size": [vision.image_size, vision.image_size],
            "patch_size": [vision.patch_size, vision.patch_size],
            "attention_bias": vision.qkv_bias,
            "use_qk_norm": vision.qk_normalization,
            "projection_dropout": vision.dropout,
            "layer_scale_init_value": vision.initializer_factor,
            "dtype": dtype,
        },
        "text_config": {**_describe_text(text), "tie_word_embeddings": tied, "dtype": dtype},
    }


def _describe_text(text: RemoteText) -> dict[str, Any]:
    llama = text.architecture == INTERNLM2
    scaling = text.rope_scaling
    stretched = {"rope_type": "default"} if scaling is None else {"rope_type": scaling.type, "factor": scaling.factor}
    return {
        **text.model_dump(
            include={
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "max_position_embeddings",
                "rms_norm_eps",
                "hidden_act",
                "attention_dropout",
                "initializer_range",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
            }
        ),
        "model_type": "llama" if llama else "qwen2",
        "architectures": ["LlamaForCausalLM" if llama else QWEN2],
        "rope_parameters": {"rope_theta": text.rope_theta, **stretched},
        "use_cache": True,
        **({"attention_bias": text.bias, "mlp_bias": False} if llama else {}),
    }
