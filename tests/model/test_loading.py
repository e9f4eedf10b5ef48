from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.errors import BadConfiguration, BadData
from tandem.model.loading import load_adapter, load_base, load_tokenizer, read_model_info
from tandem.model.tiny import make_tiny_model

PROJECTIONS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny, tmp_path_factory.mktemp("tiny") / "adapter")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def make_adapter(model: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False)
    get_peft_model(load_base(model, precision="float32", device="cpu"), config).save_pretrained(str(folder))
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_info_is_what_the_loaded_model_has(tiny: Path) -> None:
    info, model = read_model_info(tiny), load_base(tiny, precision="float32", device="cpu")
    network: Any = model

    def count(part: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    assert info.vision_parameters == count(network.model.vision_tower)
    assert info.projector_parameters == count(network.model.multi_modal_projector)
    assert info.language_parameters == count(network.model.language_model) + count(network.lm_head)
    assert info.parameters == count(model)
    assert info.weight_bytes >= 4 * info.parameters
    assert (info.tile_size, info.patch_size, info.downsample, info.tokens_per_tile) == (56, 14, 0.5, 4)
    assert (info.text_model, info.text_hidden_size, info.text_intermediate_size) == ("qwen2", 64, 128)
    assert (info.text_layers, info.text_heads, info.text_kv_heads) == (2, 4, 2)
    assert (info.vision_hidden_size, info.vision_layers, info.vision_heads) == (32, 2, 4)
    assert info.vocab_size == network.lm_head.out_features
    assert info.image_token_id == load_tokenizer(tiny).convert_tokens_to_ids("<IMG_CONTEXT>")
    assert info.geometry.tokens_per_tile == info.tokens_per_tile


def test_reading_the_info_does_not_import_torch(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tandem.model.info import read_model_info\n"
        "read_model_info(Path(sys.argv[1])); print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_sharded_weights_count_like_whole_ones(copy: Path, tiny: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, copy / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").unlink()
    assert read_model_info(copy).parameters == read_model_info(tiny).parameters
    loaded, whole = (load_base(folder, precision="float32", device="cpu").state_dict() for folder in (copy, tiny))
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)

    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadData, match=r"model-00002-of-00002.safetensors: cannot be read as safetensors"):
        read_model_info(copy)


def test_bfloat16_weights_count_like_float32_ones(copy: Path, tiny: Path) -> None:
    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.bfloat16() for name, weight in weights.items()})

    change_weights(copy, halve)
    assert read_model_info(copy).parameters == read_model_info(tiny).parameters
    assert read_model_info(copy).weight_bytes < read_model_info(tiny).weight_bytes


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_base_comes_in_the_asked_precision_ready_to_evaluate(
    tiny: Path, precision: str, dtype: torch.dtype
) -> None:
    model = load_base(tiny, precision=precision, device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert not model.training


def test_a_folder_that_is_not_there_is_a_fault_of_the_run_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="there is no such model folder"):
        read_model_info(tmp_path / "none")
    with pytest.raises(BadConfiguration, match=r"holds no config\.json"):
        read_model_info(tmp_path)


@pytest.mark.parametrize("change", [{"model_type": "internvl_chat"}, {"auto_map": {"AutoModel": "modeling.py"}}])
def test_the_remote_code_format_is_sent_to_the_converter(copy: Path, change: dict[str, Any]) -> None:
    change_config(copy, **change)
    with pytest.raises(BadConfiguration, match=r"remote-code format.*tandem convert"):
        load_base(copy, precision="float32", device="cpu")


def test_another_kind_of_model_is_refused(copy: Path) -> None:
    change_config(copy, model_type="llava")
    with pytest.raises(BadConfiguration, match="the model's type is 'llava', not 'internvl'"):
        read_model_info(copy)


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{", '{"model_type": "internvl"}', '{"model_type": "internvl", "vision_config": {}, "text_config": {}}'],
)
def test_a_broken_config_is_one_clear_line(copy: Path, body: str) -> None:
    (copy / "config.json").write_text(body)
    with pytest.raises(BadConfiguration, match=r"config\.json"):
        read_model_info(copy)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BadData, match=r"only as pytorch_model.bin, which can run code.*safetensors"):
        load_base(copy, precision="float32", device="cpu")
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(BadData, match="holds no weights"):
        read_model_info(copy)


def test_cut_off_weights_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    body = file.read_bytes()
    for damaged in (body[:-1], body[:100], b"", struct.pack("<Q", 2**40) + body[8:]):
        file.write_bytes(damaged)
        with pytest.raises(BadData, match=r"model\.safetensors: cannot be read as safetensors.*Download"):
            read_model_info(copy)


def test_a_missing_a_misshapen_and_a_foreign_weight_are_named_together(copy: Path) -> None:
    def damage(weights: dict[str, torch.Tensor]) -> None:
        del weights["language_model.lm_head.weight"]
        norm = next(name for name in sorted(weights) if "multi_modal_projector" in name and "norm" in name)
        weights[norm] = torch.ones(3)
        weights["language_model.model.layers.7.mlp.up_proj.weight"] = torch.ones(128, 64)

    change_weights(copy, damage)
    with pytest.raises(BadData) as caught:
        load_base(copy, precision="float32", device="cpu")
    whats = [fault.what for fault in caught.value.faults]
    assert len(whats) == 3
    assert "are missing, lm_head.weight first" in whats[0]
    assert "have another shape" in whats[1]
    assert "multi_modal_projector" in whats[1]
    assert "belong to no layer" in whats[2]


def test_a_tokenizer_without_internvls_tokens_is_refused(copy: Path) -> None:
    body = (copy / "tokenizer.json").read_text().replace("<IMG_CONTEXT>", "<OTHER>")
    (copy / "tokenizer.json").write_text(body)
    config = (copy / "tokenizer_config.json").read_text().replace("<IMG_CONTEXT>", "<OTHER>")
    (copy / "tokenizer_config.json").write_text(config)
    with pytest.raises(BadData, match="the tokenizer lacks <IMG_CONTEXT>"):
        load_tokenizer(copy)


def test_a_missing_tokenizer_is_one_clear_line(copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(BadData, match="the tokenizer"):
        load_tokenizer(copy)


def test_an_adapter_brings_back_exactly_what_was_saved(tiny: Path, adapter: Path) -> None:
    from peft import get_peft_model_state_dict

    adapted = load_adapter(load_base(tiny, precision="float32", device="cpu"), adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    found = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert stored.keys() == found.keys()
    assert all(torch.equal(stored[name], found[name]) for name in stored)
    assert not adapted.training
    assert not any(weight.requires_grad for weight in adapted.parameters())


def test_a_trainable_adapter_learns_and_its_base_does_not(tiny: Path, adapter: Path) -> None:
    adapted = load_adapter(load_base(tiny, precision="float32", device="cpu"), adapter, trainable=True)
    learning = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    assert adapted.training


@pytest.mark.parametrize("sizes", [{"text_size": 128}, {"layers": 1}, {"layers": 3}])
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, adapter: Path, sizes: dict[str, int]) -> None:
    make_tiny_model(tmp_path / "other", seed=1, **sizes)  # type: ignore[arg-type]
    with pytest.raises(BadData, match=r"Use the base model that the adapter's tandem\.json names"):
        load_adapter(load_base(tmp_path / "other", precision="float32", device="cpu"), adapter)


def test_a_damaged_or_pickled_or_missing_adapter_is_refused(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    model = load_base(tiny, precision="float32", device="cpu")
    folder = Path(shutil.copytree(adapter, tmp_path / "copy"))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(BadData, match="cannot be loaded"):
        load_adapter(model, folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(BadData, match=r"only a \.bin that can run code"):
        load_adapter(model, folder)
    with pytest.raises(BadData) as caught:
        load_adapter(model, tmp_path / "nowhere")
    assert len(caught.value.faults) == 2
