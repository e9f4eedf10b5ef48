"""What a checkpoint's small files and weight headers tell about it, read without torch and without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.model.tiles import TileGeometry, tokens_per_tile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a checkpoint's small files and weight headers tell about it."""

    folder: Path
    tile_size: int
    """Pixels of a tile's side."""
    patch_size: int
    """Pixels of a vision patch's side."""
    downsample: float
    """Factor on both sides of the grid of patches."""
    tokens_per_tile: int
    """Image tokens that one tile becomes."""
    image_token_id: int
    vocab_size: int
    text_model: str
    """transformers' name of the language model's kind, for example qwen2."""
    text_hidden_size: int
    text_intermediate_size: int
    text_layers: int
    text_heads: int
    text_kv_heads: int
    text_positions: int
    """Longest sequence (tokens) that the language model was made for."""
    vision_hidden_size: int
    vision_layers: int
    vision_heads: int
    vision_parameters: int
    projector_parameters: int
    language_parameters: int
    """Embeddings and output layer included."""
    weight_bytes: int
    """Size of all weights as stored."""

    @property
    def geometry(self) -> TileGeometry:
        """What the model fixes about a tile."""
        return TileGeometry(tile_size=self.tile_size, patch_size=self.patch_size, downsample=self.downsample)

    @property
    def parameters(self) -> int:
        """All parameters (count)."""
        return self.vision_parameters + self.projector_parameters + self.language_parameters


def read_model_info(folder: Path) -> ModelInfo:
    """Read a native InternVL checkpoint's geometry and size without torch and without its weights.

    Raises BadConfiguration for a missing folder, another kind of model, or the remote-code format of the original
    publications; BadData for weights that are missing, damaged or not safetensors.
    """
    config = _read_config(folder)
    vision, text = _section(config, "vision_config", folder), _section(config, "text_config", folder)
    sizes = _read_weights(folder)
    try:
        tile, patch = _side(vision["image_size"]), _side(vision["patch_size"])
        downsample = float(config.get("downsample_ratio", 0.5))
        return ModelInfo(
            folder=folder,
            tile_size=tile,
            patch_size=patch,
            downsample=downsample,
            tokens_per_tile=tokens_per_tile(tile, patch, downsample),
            image_token_id=int(config["image_token_id"]),
            vocab_size=int(text["vocab_size"]),
            text_model=str(text["model_type"]),
            text_hidden_size=int(text["hidden_size"]),
            text_intermediate_size=int(text["intermediate_size"]),
            text_layers=int(text["num_hidden_layers"]),
            text_heads=int(text["num_attention_heads"]),
            text_kv_heads=int(text.get("num_key_value_heads") or text["num_attention_heads"]),
            text_positions=int(text["max_position_embeddings"]),
            vision_hidden_size=int(vision["hidden_size"]),
            vision_layers=int(vision["num_hidden_layers"]),
            vision_heads=int(vision["num_attention_heads"]),
            vision_parameters=sizes.vision,
            projector_parameters=sizes.projector,
            language_parameters=sizes.language,
            weight_bytes=sizes.bytes,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadConfiguration(
            Fault(
                where=str(folder / "config.json"),
                what=f"does not describe an InternVL model ({type(error).__name__}: {error})",
                remedy="Download the checkpoint again.",
            )
        ) from None


@dataclass(frozen=True, kw_only=True)
class _WeightSizes:
    vision: int
    projector: int
    language: int
    bytes: int


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir() or not path.is_file():
        what = "holds no config.json" if folder.is_dir() else "there is no such model folder"
        raise BadConfiguration(
            Fault(where=str(folder), what=what, remedy="Give the folder of an InternVL checkpoint as model.source.")
        )
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfiguration(
            Fault(where=str(path), what=f"is not JSON ({error})", remedy="Download the checkpoint again.")
        ) from None
    if not isinstance(config, dict):
        config = {}
    kind = config.get("model_type")
    if kind == "internvl_chat" or "auto_map" in config:
        raise BadConfiguration(
            Fault(
                where=str(path),
                what="the model is in the remote-code format, which runs code from the checkpoint",
                remedy=f"Convert it once: tandem convert {folder} {folder.name}-hf",
            )
        )
    if kind != "internvl":
        raise BadConfiguration(
            Fault(
                where=str(path),
                what=f"the model's type is {kind!r}, not 'internvl'",
                remedy="Use an InternVL checkpoint in the native format, such as OpenGVLab/InternVL3-2B-hf.",
            )
        )
    return config


def _section(config: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    section = config.get(name)
    if isinstance(section, dict):
        return section
    raise BadConfiguration(
        Fault(where=str(folder / "config.json"), what=f"has no {name}", remedy="Download the checkpoint again.")
    )


def _read_weights(folder: Path) -> _WeightSizes:
    counts = {"vision": 0, "projector": 0, "language": 0}
    size = 0
    faults = []
    for file in _weight_files(folder):
        try:
            size += file.stat().st_size
            for name, shape in _read_shapes(file):
                counts[_part_of(name)] += _product(shape)
        except (OSError, ValueError) as error:
            faults.append(
                Fault(
                    where=str(file),
                    what=f"cannot be read as safetensors ({_first_line(error)})",
                    remedy="Download this file again.",
                )
            )
    if faults:
        raise BadData(faults)
    return _WeightSizes(**counts, bytes=size)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadData(
                Fault(where=str(index), what=f"is not a weight index ({error})", remedy="Download this file again.")
            ) from None
        return [folder / str(name) for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = f"has weights only as {pickled[0]}, which can run code when loaded" if pickled else "holds no weights"
    raise BadData(
        Fault(where=str(folder), what=what, remedy="Use a checkpoint whose weights are in safetensors files.")
    )


def _read_shapes(file: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes from a file's header; safetensors itself checks the header against the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as opened:
            return [(name, list(opened.get_slice(name).get_shape())) for name in opened.keys()]  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _part_of(name: str) -> str:
    if "vision_tower" in name:
        return "vision"
    return "projector" if "multi_modal_projector" in name else "language"


def _side(size: Any) -> int:
    return int(size[0]) if isinstance(size, list) else int(size)


def _product(shape: list[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
