"""From the remote-code format of InternVL2.5 and InternVL3 to a native checkpoint; the source's code is never run.

What becomes what follows the published `-hf` checkpoints and transformers' own converter in its source tree; that both
sides give the same logits is shown with checkpoints made by the original code (`tests/golden/remote_code`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.model.convert_config import RemoteConfig, describe_native, read_remote_config
from tandem.model.convert_names import Cut, is_ignored, map_name
from tandem.model.convert_tokenizer import ConvertedTokenizer, convert_tokenizer, write_tokenizer
from tandem.model.convert_weights import DTYPES, SHARD_BYTES, Stored, list_weights, read_tensor, size_of, write_weights
from tandem.model.info import ModelInfo, read_model_info
from tandem.model.json_files import AGAIN, read_object
from tandem.model.loading import library_faults, load_tokenizer
from tandem.model.prompt import INTERNVL2_5
from tandem.model.tiles import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import torch

Part = TypeVar("Part")

OUTPUT_LAYER = "language_model.lm_head.weight"

_DISK_NAMES = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""How transformers' InternVL calls its weights in memory, and how they are called in files."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A weight of the native checkpoint and where it comes from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Stored
    cut: Cut | None


def convert_checkpoint(source: Path, destination: Path, *, shard_bytes: int = SHARD_BYTES) -> ModelInfo:
    """Write a remote-code checkpoint into the folder `destination` as a native one; equal input, equal bytes.

    Holds one weight in memory at a time. `destination` appears whole or not at all. Raises BadConfiguration if it is
    there already or there is no such source, BadData with everything that is wrong with the source.
    """
    if not source.is_dir():
        what = "there is no such model folder"
        raise BadConfiguration(Fault(where=str(source), what=what, remedy="Give the folder of a checkpoint."))
    config, stored, tokenizer = _read_source(source)
    tied = config.llm_config.tie_word_embeddings and not any(
        OUTPUT_LAYER in map_name(weight.name, config) for weight in stored
    )
    native = describe_native(
        config,
        image_token_id=tokenizer.token_id(INTERNVL2_5.image_context),
        dtype=_main_dtype(stored),
        tied=tied,
    )
    planned = _plan(source, config, stored, expect_weights(native, tied=tied, where=source))
    generation = _describe_generation(source, tokenizer)
    with written_whole(destination) as folder:
        write_weights(folder, planned, _make, shard_bytes=shard_bytes)
        _save_config(folder, native)
        write_json(folder / "generation_config.json", generation)
        write_json(folder / "preprocessor_config.json", _describe_images(config))
        write_json(folder / "processor_config.json", _describe_processor(config))
        template = render_chat_template(config.system, begins=tokenizer.settings["add_bos_token"])
        write_tokenizer(folder, tokenizer, chat_template=template)
        info = verify(folder, {weight.name: weight.shape for weight in planned})
        _verify_tokenizer(folder, tokenizer)
    return info


def render_chat_template(system_message: str, *, begins: bool) -> str:
    """InternVL's prompt as a chat template (Jinja), with this system message for conversations that bring none.

    `begins`: the BOS token stands first. Both are what the original's chat() does.
    """
    quoted = json.dumps(system_message, ensure_ascii=False)
    return ("{{ bos_token }}" if begins else "") + (
        "{% if messages and messages[0]['role'] != 'system' %}"
        f"{{{{ '<|im_start|>system\\n' + {quoted} + '<|im_end|>\\n' }}}}"
        "{% endif %}"
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
        "{{ '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def expect_weights(native: dict[str, Any], *, tied: bool, where: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that transformers' InternVL of these settings stores; no memory is used for them.

    `tied`: the output layer is the embedding and not stored. Raises BadData if transformers does not accept the
    settings.
    """
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    with (
        library_faults(where / "config.json", "transformers does not accept its settings", AGAIN),
        torch.device("meta"),
    ):
        model: Any = InternVLForConditionalGeneration(InternVLConfig.from_dict(native))
    shapes = {disk_name(name): tuple(weight.shape) for name, weight in model.state_dict().items()}
    if tied:
        del shapes[OUTPUT_LAYER]
    return shapes


def disk_name(name: str) -> str:
    """What a weight of transformers' InternVL is called in files."""
    for old, new in _DISK_NAMES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@contextmanager
def written_whole(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that takes its place when the block ends well, and vanishes otherwise.

    Raises BadConfiguration if `destination` is there already or cannot be written.
    """
    partial = destination.parent / f".{destination.name}.partial-{os.getpid()}"
    try:
        if destination.exists():
            what = "is there already"
            raise BadConfiguration(
                Fault(where=str(destination), what=what, remedy="Give a folder that does not exist yet.")
            )
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        partial.rename(destination)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        remedy = "Give a folder on a disk with room enough, in a place that you may write to."
        raise BadConfiguration(Fault(where=str(destination), what=what, remedy=remedy)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def verify(folder: Path, expected: dict[str, tuple[int, ...]]) -> ModelInfo:
    """Read a written checkpoint back as any reader would. Raises BadData if a weight is missing or of another shape."""
    info = read_model_info(folder)
    found = {weight.name: weight.shape for weight in list_weights(folder)}
    if found != expected:
        astray = sorted(set(found.items()) ^ set(expected.items()))
        what = f"was not written as planned, {astray[0][0]} first"
        raise BadData(Fault(where=str(folder), what=what, remedy="The disk may be faulty: try another one."))
    return info


def _save_config(folder: Path, native: dict[str, Any]) -> None:
    """Write config.json as transformers 5 does, and the rotation also as version 4 and what is built on it read it."""
    from transformers import InternVLConfig

    InternVLConfig.from_dict(native).save_pretrained(folder)
    written = read_object(folder / "config.json")
    rotation = dict(native["text_config"]["rope_parameters"])
    written["text_config"]["rope_theta"] = rotation.pop("rope_theta")
    if rotation["rope_type"] != "default":
        written["text_config"]["rope_scaling"] = rotation
    write_json(folder / "config.json", written)


def write_json(path: Path, value: object) -> None:
    """Write JSON whose bytes depend on nothing but the value."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_source(source: Path) -> tuple[RemoteConfig, list[Stored], ConvertedTokenizer]:
    """Read everything but the weights themselves. Raises BadData with the faults of all files at once."""
    faults: list[Fault] = []
    config = _attempt(lambda: read_remote_config(source), faults)
    stored = _attempt(lambda: list_weights(source), faults)
    tokenizer = None if config is None else _attempt(lambda: convert_tokenizer(source, config), faults)
    if config is None or stored is None or tokenizer is None:
        raise BadData(faults)
    return config, [weight for weight in stored if not is_ignored(weight.name)], tokenizer


def _attempt(read: Callable[[], Part], faults: list[Fault]) -> Part | None:
    try:
        return read()
    except BadData as error:
        faults += error.faults
        return None


def _main_dtype(stored: list[Stored]) -> str:
    """Torch's name of the type that most of the weights' bytes have."""
    sizes = dict.fromkeys(DTYPES, 0)
    for weight in stored:
        sizes[weight.dtype] += size_of(weight)
    return DTYPES[max(sizes, key=lambda dtype: sizes[dtype])]


def _plan(
    source: Path, config: RemoteConfig, stored: list[Stored], expected: dict[str, tuple[int, ...]]
) -> list[Planned]:
    """Where each native weight comes from. Raises BadData unless weights and places belong together one to one."""
    planned: list[Planned] = []
    left_over: list[str] = []
    other: list[str] = []
    for weight in stored:
        targets = map_name(weight.name, config)
        if not targets or any(name not in expected for name in targets):
            left_over.append(weight.name)
            continue
        for name, cut in targets.items():
            shape = weight.shape if cut is None else cut.shape(weight.shape)
            if shape != expected[name]:
                other.append(f"{weight.name} {list(weight.shape)}")
                continue
            planned.append(Planned(name=name, dtype=weight.dtype, shape=shape, source=weight, cut=cut))
    names = [weight.name for weight in planned]
    missing = sorted(set(expected) - set(names)) if not other else []
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    faults = [
        Fault(where=str(source), what=f"{len(found)} weights {what}, {found[0]} first", remedy=remedy)
        for found, what, remedy in (
            (left_over, "belong to no layer of the model", "Merge wrapped adapters first, or mend config.json."),
            (other, "have another shape than config.json says", "Download the checkpoint again, or mend config.json."),
            (missing, "of the native model have no source", "Download the checkpoint again, or mend config.json."),
            (twice, "of the native model have two sources", AGAIN),
        )
        if found
    ]
    if faults:
        raise BadData(faults)
    return planned


def _make(weight: Planned) -> torch.Tensor:
    tensor = read_tensor(weight.source)
    if weight.cut is None:
        return tensor
    cut = weight.cut
    size = tensor.shape[0] // (cut.blocks * cut.parts)
    blocks = tensor.reshape(cut.blocks, cut.parts, size, *tensor.shape[1:])
    return blocks[:, cut.first : cut.last].reshape(weight.shape)


def _describe_generation(source: Path, tokenizer: ConvertedTokenizer) -> dict[str, Any]:
    """The source's settings; an answer ends at <|im_end|>, as in the original's chat()."""
    path = source / "generation_config.json"
    settings = read_object(path) if path.is_file() else {}
    end = tokenizer.token_id(INTERNVL2_5.turn_end)
    given = settings.get("eos_token_id", [])
    ends = [number for number in (given if isinstance(given, list) else [given]) if type(number) is int]
    pad = tokenizer.settings.get("pad_token")
    kept = {
        name: value for name, value in settings.items() if name not in ("_from_model_config", "transformers_version")
    }
    described = {
        "do_sample": False,
        **kept,
        "eos_token_id": end if set(ends) <= {end} else [end, *(number for number in ends if number != end)],
        "pad_token_id": tokenizer.token_id(pad) if pad else end,
    }
    _refuse_unknown_generation(path, described)
    return described


def _refuse_unknown_generation(path: Path, settings: dict[str, Any]) -> None:
    import transformers

    generation: Any = transformers.GenerationConfig
    with library_faults(path, "transformers does not accept it", "Mend it, or take it away."):
        generation(**settings).validate()


def _describe_images(config: RemoteConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": config.tile_size, "width": config.tile_size},
        "resample": 3,
        "crop_to_patches": config.dynamic_image_size,
        "min_patches": config.min_dynamic_patch,
        "max_patches": config.max_dynamic_patch,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _describe_processor(config: RemoteConfig) -> dict[str, Any]:
    return {"processor_class": "InternVLProcessor", "image_seq_length": config.tokens_per_tile}


def _verify_tokenizer(folder: Path, converted: ConvertedTokenizer) -> None:
    """Load the tokenizer as training and evaluation do. Raises BadData if a token has another id than in the source."""
    loaded = load_tokenizer(folder).get_vocab()
    expected = converted.tokenizer.get_vocab(with_added_tokens=True)
    if loaded != expected:
        moved = sorted(token for token in expected if loaded.get(token) != expected[token])
        what = f"{len(moved)} tokens have another id once loaded, {moved[:1]} first"
        raise BadData(Fault(where=str(folder), what=what, remedy="Please report this checkpoint."))
