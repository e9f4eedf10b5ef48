"""What a checkpoint's small files and weight headers tell about it, read without torch and without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.model.json_files import AGAIN, Layers, Size, read_object
from tandem.model.tiles import TileGeometry, tokens_per_tile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

Side = Size | Annotated[list[Size], Field(min_length=2, max_length=2)]
"""Pixels: of both sides, or of each."""


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
    vision, text = config.vision_config, config.text_config
    sizes = _read_weights(folder)
    tile, patch = _side(vision.image_size), _side(vision.patch_size)
    return ModelInfo(
        folder=folder,
        tile_size=tile,
        patch_size=patch,
        downsample=config.downsample_ratio,
        tokens_per_tile=tokens_per_tile(tile, patch, config.downsample_ratio),
        image_token_id=config.image_token_id,
        vocab_size=text.vocab_size,
        text_model=text.model_type,
        text_hidden_size=text.hidden_size,
        text_intermediate_size=text.intermediate_size,
        text_layers=text.num_hidden_layers,
        text_heads=text.num_attention_heads,
        text_kv_heads=text.num_key_value_heads or text.num_attention_heads,
        text_positions=text.max_position_embeddings,
        vision_hidden_size=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads,
        vision_parameters=sizes.vision,
        projector_parameters=sizes.projector,
        language_parameters=sizes.language,
        weight_bytes=sizes.bytes,
    )


class _Section(BaseModel):
    """A part of config.json; what is not read here is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class _Vision(_Section):
    image_size: Side
    patch_size: Side
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size


class _Text(_Section):
    model_type: str
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    max_position_embeddings: Size


class _Config(_Section):
    vision_config: _Vision
    text_config: _Text
    image_token_id: Annotated[int, Field(ge=0, lt=2**24)]
    downsample_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _check_tile(self) -> Self:
        tile, patch = _side(self.vision_config.image_size), _side(self.vision_config.patch_size)
        if tokens_per_tile(tile, patch, self.downsample_ratio) < 1:
            raise ValueError("a tile of image_size has no token: it holds too few patches of patch_size")
        return self


@dataclass(frozen=True, kw_only=True)
class _WeightSizes:
    vision: int
    projector: int
    language: int
    bytes: int


def _read_config(folder: Path) -> _Config:
    path = folder / "config.json"
    if not folder.is_dir() or not path.is_file():
        what = "holds no config.json" if folder.is_dir() else "there is no such model folder"
        raise BadConfiguration(
            Fault(where=str(folder), what=what, remedy="Give the folder of an InternVL checkpoint as model.source.")
        )
    try:
        config = read_object(path)
    except BadData as error:
        raise BadConfiguration(error.faults) from None
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
    try:
        return _Config.model_validate(config)
    except ValidationError as error:
        raise BadConfiguration(
            [
                Fault(
                    where=f"{path}: {'.'.join(map(str, item['loc']))}".removesuffix(": "),
                    what=f"does not describe an InternVL model ({item['msg']})",
                    remedy=AGAIN,
                )
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        ) from None


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
        return [folder / name for name in sorted(set(read_index(index).values()))]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = f"has weights only as {pickled[0]}, which can run code when loaded" if pickled else "holds no weights"
    raise BadData(
        Fault(where=str(folder), what=what, remedy="Use a checkpoint whose weights are in safetensors files.")
    )


def read_index(index: Path) -> dict[str, str]:
    """The file of each weight. Raises BadData for what is no index, or names other files than those beside it."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadData(Fault(where=str(index), what="is not a weight index", remedy=AGAIN))
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            what = f"names {str(file)[:100]!r}, which is no safetensors file beside it"
            raise BadData(Fault(where=str(index), what=what, remedy=AGAIN))
    return places


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


def _side(size: int | list[int]) -> int:
    return size[0] if isinstance(size, list) else size


def _product(shape: list[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
