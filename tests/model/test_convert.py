from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tandem.errors import BadConfiguration, BadData, TandemError
from tandem.model.convert import convert_checkpoint
from tandem.model.convert_names import Cut, map_name
from tandem.model.convert_weights import list_weights
from tandem.model.info import read_model_info
from tandem.model.loading import load_base, load_tokenizer
from tandem.model.prompt import Turn, encode_prompt
from tests.model.remote import FAMILIES, GOLDEN, change_json

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("converted")
    for family in FAMILIES:
        convert_checkpoint(GOLDEN / family, root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copy(tmp_path: Path, family: str) -> Path:
    return Path(shutil.copytree(GOLDEN / family, tmp_path / "source"))


@pytest.fixture
def qwen2(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "qwen2", tmp_path / "source"))


def known(family: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDEN / family / "expected.json").read_text())
    return value


def draw_pixels() -> torch.Tensor:
    return ((torch.arange(2 * 3 * 56 * 56) * 7919 % 1000).float() / 500 - 1).reshape(2, 3, 56, 56)


def read_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        answer = model(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), pixel_values=draw_pixels()
        )
    logits: torch.Tensor = answer.logits[0]
    return logits


def test_the_native_model_gives_the_logits_of_the_original_code(family: str, converted: dict[str, Path]) -> None:
    model = load_base(converted[family], precision="float32", device="cpu")
    expected = load_file(GOLDEN / family / "expected.safetensors")
    ids = known(family)["input_ids"]
    torch.testing.assert_close(read_logits(model, ids)[-24:], expected["logits"], atol=1e-4, rtol=0)
    if "long_logits" in expected:
        ids += [100 + position * 7 % 200 for position in range(512)]
        torch.testing.assert_close(read_logits(model, ids)[-4:], expected["long_logits"], atol=1e-4, rtol=0)


def test_texts_become_the_ids_of_the_original_tokenizer(family: str, converted: dict[str, Path]) -> None:
    tokenizer: Any = load_tokenizer(converted[family])
    for entry in known(family)["texts"]:
        assert tokenizer(entry["text"], add_special_tokens=False)["input_ids"] == entry["ids"], entry["text"]
    vocabulary = tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in known(family)["added"]} == known(family)["added"]
    assert len(tokenizer) == known(family)["vocabulary"]


@pytest.mark.parametrize("text", ["Plain words.", "  blanks  inside ", "a\n\n\tb", "你是书生", "🧠", ""])
def test_ids_become_the_text_again(text: str, family: str, converted: dict[str, Path]) -> None:
    tokenizer: Any = load_tokenizer(converted[family])
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_prompts_are_those_of_the_original_chat(family: str, converted: dict[str, Path]) -> None:
    tokenizer: Any = load_tokenizer(converted[family])
    expected = known(family)
    turns = [Turn(role="user", text=expected["question"])]
    assert encode_prompt(tokenizer, turns, [2], tokens_per_tile=4) == expected["input_ids"]
    question = {"type": "text", "text": expected["question"].removeprefix("<image>\n")}
    messages = [{"role": "user", "content": [{"type": "image"}, question]}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    beginning = "<s>" if family == "internlm2" else ""
    assert rendered == beginning + expected["query"].replace("<image>", "<IMG_CONTEXT>")
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert tokenizer.apply_chat_template(own, tokenize=False) == (
        f"{beginning}<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    )


def test_every_number_of_the_source_is_in_the_result_once(family: str, converted: dict[str, Path]) -> None:
    source, result = list_weights(GOLDEN / family), list_weights(converted[family])
    assert sum(torch.Size(weight.shape).numel() for weight in source) == read_model_info(converted[family]).parameters
    assert {weight.dtype for weight in result} == {"BF16"}
    config = json.loads((converted[family] / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", False)
    text = config["text_config"]
    rotation = {"rope_type": "dynamic", "factor": 2.0}
    assert text["rope_parameters"] == {"rope_theta": 1e6, **rotation}
    assert (text["rope_theta"], text["rope_scaling"]) == (1e6, rotation)  # what transformers 4 reads
    assert text["model_type"] == {"qwen2": "qwen2", "internlm2": "llama"}[family]


def test_generation_ends_at_the_end_of_the_turn_and_keeps_the_rest(copy: Path, family: str, tmp_path: Path) -> None:
    change_json(copy / "generation_config.json", eos_token_id=[2, 5], repetition_penalty=1.1, _from_model_config=True)
    convert_checkpoint(copy, tmp_path / "native")
    end = known(family)["added"]["<|im_end|>"]
    written = json.loads((tmp_path / "native/generation_config.json").read_text())
    assert written["eos_token_id"] == [end, 2, 5]
    assert written["repetition_penalty"] == 1.1
    assert "_from_model_config" not in written


def test_images_are_described_as_the_original_cuts_them(family: str, converted: dict[str, Path]) -> None:
    described = json.loads((converted[family] / "preprocessor_config.json").read_text())
    assert described["size"] == {"height": 56, "width": 56}
    assert (described["crop_to_patches"], described["min_patches"], described["max_patches"]) == (True, 1, 12)
    assert described["image_mean"] == [0.485, 0.456, 0.406]
    assert json.loads((converted[family] / "processor_config.json").read_text())["image_seq_length"] == 4


def test_the_same_source_gives_the_same_bytes_in_whatever_shards(
    family: str, converted: dict[str, Path], tmp_path: Path
) -> None:
    convert_checkpoint(GOLDEN / family, tmp_path / "again")
    files = {path.name: path.read_bytes() for path in converted[family].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    convert_checkpoint(GOLDEN / family, tmp_path / "shards", shard_bytes=40_000)
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    whole = load_file(converted[family] / "model.safetensors")
    parts = {name: weight for shard in shards for name, weight in load_file(tmp_path / "shards" / shard).items()}
    assert {name: index["weight_map"][name] for name in parts} == index["weight_map"]
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    load_base(tmp_path / "shards", precision="float32", device="cpu")


def test_the_code_of_the_checkpoint_is_never_run(copy: Path, tmp_path: Path) -> None:
    trap = tmp_path / "was-run"
    body = f"import pathlib; pathlib.Path({str(trap)!r}).touch()\n"
    for name in ("modeling_internvl_chat", "configuration_internvl_chat", "tokenization_internlm2"):
        (copy / f"{name}.py").write_text(body)
    change_json(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_internlm2.X", None]})
    convert_checkpoint(copy, tmp_path / "native")
    assert not trap.exists()
    assert not list((tmp_path / "native").glob("*.py"))


def test_a_tied_output_layer_stays_tied_and_a_stored_one_is_kept(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "config.json", **{"llm_config.tie_word_embeddings": True})
    convert_checkpoint(qwen2, tmp_path / "kept")
    assert json.loads((tmp_path / "kept/config.json").read_text())["tie_word_embeddings"] is False
    for path in qwen2.glob("model-*.safetensors"):
        save_file({k: v for k, v in load_file(path).items() if "lm_head" not in k}, path, metadata={"format": "pt"})
    index = json.loads((qwen2 / "model.safetensors.index.json").read_text())
    del index["weight_map"]["language_model.lm_head.weight"]
    (qwen2 / "model.safetensors.index.json").write_text(json.dumps(index))
    convert_checkpoint(qwen2, tmp_path / "tied")
    model: Any = load_base(tmp_path / "tied", precision="float32", device="cpu")
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_a_bias_of_the_grouped_attention_is_cut_like_its_weight() -> None:
    from tandem.model.convert_config import read_remote_config

    config = read_remote_config(GOLDEN / "internlm2")
    cuts = map_name("language_model.model.layers.7.attention.wqkv.bias", config)
    assert cuts["language_model.model.layers.7.self_attn.k_proj.bias"] == Cut(blocks=2, parts=4, first=2, last=3)
    assert [cut.shape((64,)) for cut in cuts.values() if cut] == [(32,), (16,), (16,)]


# -- what cannot be converted


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(TandemError) as raised:
        convert_checkpoint(source, tmp_path / "native")
    assert not (tmp_path / "native").exists()
    assert not list(tmp_path.glob(".native*"))
    text = str(raised.value)
    assert len(text.splitlines()) == len(raised.value.faults)
    return text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "the model's type is 'llava', not 'internvl_chat'"),
        ({"model_type": "internvl"}, "the model is in the native format already"),
        ({"llm_config.architectures": ["Phi3ForCausalLM"]}, "the language model 'Phi3ForCausalLM' is neither"),
        ({"template": "internlm2-chat"}, "'internlm2-chat' is not a template that tandem knows"),
        ({"ps_version": "v1"}, "ps_version: Input should be 'v2'"),
        ({"select_layer": -4}, "select_layer: Input should be -1"),
        ({"use_llm_lora": 16}, "use_llm_lora: Input should be 0"),
        ({"downsample_ratio": 0.25}, "downsample_ratio: Input should be greater than or equal to 0.5"),
        ({"force_image_size": 112}, "is 112, while vision_config.image_size is 56"),
        ({"vision_config.qk_normalization": True}, "of the native model have no source"),
        ({"vision_config.num_hidden_layers": 3}, "of the native model have no source"),
        ({"vision_config.num_hidden_layers": 1}, "belong to no layer of the model"),
        ({"llm_config.intermediate_size": 49}, "have another shape than config.json says"),
        ({"llm_config.num_hidden_layers": 10**9}, "less than or equal to 1024"),
        ({"llm_config.rope_theta": None}, "llm_config.rope_theta: Field required"),
        ({"llm_config.rope_scaling": {"type": "linear", "factor": 2.0}}, "the native one would"),
        ({"llm_config.rope_scaling": {"type": "yarn", "factor": 2.0}}, "Input should be 'dynamic' or 'linear'"),
        ({"llm_config.use_sliding_window": True}, "use_sliding_window: Input should be False"),
        ({"llm_config.vocab_size": 400}, "the tokenizer has ids up to 413, the model's vocab_size is 400"),
        ({"llm_config": 3}, "llm_config: Input should be"),
    ],
)
def test_a_setting_that_cannot_be_carried_is_named(
    qwen2: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change_json(qwen2 / "config.json", **changes)
    assert message in refusal(qwen2, tmp_path)


def test_all_faults_of_a_source_are_named_at_once(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "config.json", ps_version="v1", select_layer=-4)
    (qwen2 / SHARD).unlink()
    shard = qwen2 / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    text = refusal(qwen2, tmp_path)
    assert "ps_version" in text
    assert "select_layer" in text
    assert f"{SHARD}: is missing" in text
    assert "model-00003-of-00003.safetensors: cannot be read as safetensors" in text


def test_a_weight_that_is_left_over_or_lost_is_named(qwen2: Path, tmp_path: Path) -> None:
    weights = load_file(qwen2 / SHARD)
    name = sorted(weights)[0]
    save_file({**{k: v for k, v in weights.items() if k != name}, f"{name}.lora_A": weights[name]}, qwen2 / SHARD)
    text = refusal(qwen2, tmp_path)
    assert f"1 weights are not in the files that it names, {name} first" in text
    assert f"1 weights of those files are not in it, {name}.lora_A first" in text
    (qwen2 / "model.safetensors.index.json").unlink()
    merged = {k: v for path in sorted(qwen2.glob("model-*")) for k, v in load_file(path).items()}
    save_file(merged, qwen2 / "model.safetensors")
    text = refusal(qwen2, tmp_path)
    assert f"1 weights belong to no layer of the model, {name}.lora_A first" in text
    assert "1 weights of the native model have no source" in text


def test_weights_that_are_no_safetensors_are_refused(qwen2: Path, tmp_path: Path) -> None:
    for path in qwen2.glob("model*"):
        path.unlink()
    (qwen2 / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "has weights only as pytorch_model.bin, which can run code when loaded" in refusal(qwen2, tmp_path)


def test_an_index_that_leads_out_of_its_folder_is_refused(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "model.safetensors.index.json", weight_map={"a": "../other.safetensors"})
    assert "names '../other.safetensors', which is no safetensors file beside it" in refusal(qwen2, tmp_path)


def test_tokens_that_would_get_another_id_are_refused(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "tokenizer_config.json", added_tokens_decoder=None)
    added = json.loads((qwen2 / "added_tokens.json").read_text())
    (qwen2 / "added_tokens.json").write_text(json.dumps(added | {"<img>": 500}))
    assert "added tokens would get another id" in refusal(qwen2, tmp_path)


def test_a_tokenizer_without_internvls_tokens_is_refused(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "tokenizer_config.json", added_tokens_decoder=None)
    (qwen2 / "added_tokens.json").unlink()
    message = "the tokenizer lacks <|im_start|>, <|im_end|>, <img>, </img>, <IMG_CONTEXT>"
    assert message in refusal(qwen2, tmp_path)


def test_added_tokens_without_flags_are_enough(qwen2: Path, tmp_path: Path) -> None:
    change_json(qwen2 / "tokenizer_config.json", added_tokens_decoder=None)
    convert_checkpoint(qwen2, tmp_path / "native")
    tokenizer: Any = load_tokenizer(tmp_path / "native")
    for entry in known("qwen2")["texts"]:
        assert tokenizer(entry["text"], add_special_tokens=False)["input_ids"] == entry["ids"], entry["text"]


def test_a_finished_tokenizer_json_is_taken_where_the_slow_files_are_missing(
    copy: Path, family: str, converted: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer.model"):
        (copy / name).unlink(missing_ok=True)
    assert "nor tokenizer.json" in refusal(copy, tmp_path)
    shutil.copy(converted[family] / "tokenizer.json", copy)
    convert_checkpoint(copy, tmp_path / "native")
    tokenizer: Any = load_tokenizer(tmp_path / "native")
    for entry in known(family)["texts"]:
        assert tokenizer(entry["text"], add_special_tokens=False)["input_ids"] == entry["ids"], entry["text"]


def test_places_that_cannot_be_used_are_faults_of_the_command(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="there is no such model folder"):
        convert_checkpoint(tmp_path / "none", tmp_path / "native")
    (tmp_path / "native").mkdir()
    with pytest.raises(BadConfiguration, match="is there already"):
        convert_checkpoint(qwen2, tmp_path / "native")
    (tmp_path / "file").touch()
    with pytest.raises(BadConfiguration, match="cannot be written"):
        convert_checkpoint(qwen2, tmp_path / "file" / "native")


def test_a_full_disk_leaves_nothing_behind(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tandem.model.convert.write_tokenizer", refuse)
    assert "cannot be written (No space left on device)" in refusal(qwen2, tmp_path)


# -- memory

MEASURE = """
import sys
from pathlib import Path
from tandem.model.convert import convert_checkpoint, expect_weights
import transformers, torch

def peak(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

source, destination, small = map(Path, sys.argv[1:])
convert_checkpoint(small, destination.with_name("small"))  # what the libraries need is not counted
Path("/proc/self/clear_refs").write_text("5")
before = peak("VmRSS")
convert_checkpoint(source, destination)
print(peak("VmHWM") - before)
"""


def test_memory_stays_far_below_a_shard_of_a_model_of_several(qwen2: Path, tmp_path: Path) -> None:
    """300 MB in five files; whole-model loading would take all of it. An 8B model has shards of 5 GB."""
    grow_text_model(qwen2, layers=56, hidden=512, intermediate=1200)
    shards = sorted(path.stat().st_size for path in qwen2.glob("model-*"))
    assert sum(shards) > 280e6
    assert len(shards) == 5
    command = [sys.executable, "-c", MEASURE, str(qwen2), str(tmp_path / "native"), str(GOLDEN / "qwen2")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) < shards[0] / 4
    assert sum(path.stat().st_size for path in (tmp_path / "native").glob("*.safetensors")) > 280e6


def grow_text_model(folder: Path, *, layers: int, hidden: int, intermediate: int) -> None:
    """Replace a golden checkpoint's weights by larger ones of the same names, in five files."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate}
    change_json(folder / "config.json", **{f"llm_config.{name}": size for name, size in sizes.items()})
    old, new = {32: hidden, 48: intermediate, 16: hidden // 2}, {}
    for path in folder.glob("model-*"):
        for name, weight in load_file(path).items():
            if not name.startswith(("language_model.", "mlp1.1", "mlp1.3")):
                new[name] = weight
                continue
            shape = [old.get(length, length) for length in weight.shape]
            numbers = range(layers) if ".layers.0." in name else [0] if ".layers." not in name else []
            for number in numbers:
                new[name.replace(".layers.0.", f".layers.{number}.")] = torch.full(shape, 0.5, dtype=torch.bfloat16)
        path.unlink()
    names = sorted(new)
    places = {}
    for part in range(5):
        file = f"model-{part + 1:05d}-of-00005.safetensors"
        save_file({name: new[name] for name in names[part::5]}, folder / file)
        places.update(dict.fromkeys(names[part::5], file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


# -- garbage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
GARBAGE = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
SMALL_FILES = (
    "config.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "vocab.json",
    "merges.txt",
)


def attempt(source: Path, destination: Path) -> list[str]:
    """The lines that a user would see; none if it could be converted. Anything but BadData fails the test."""
    shutil.rmtree(destination, ignore_errors=True)
    try:
        convert_checkpoint(source, destination)
    except BadData as error:
        return [str(fault) for fault in error.faults]
    return []


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*SMALL_FILES, SHARD]), body=GARBAGE)
@example(name="config.json", body=b"[" * 100_000)
@example(name="config.json", body=b"9" * 5000)
@example(name=SHARD, body=b"\xff" * 16)
@example(name=SHARD, body=(2**40).to_bytes(8, "little") + b"{}")
@example(name=SHARD, body=(2).to_bytes(8, "little") + b"{}")
@example(name="generation_config.json", body=b'{"eos_token_id": {"a": 1}, "max_length": "x"}')
def test_garbage_in_place_of_a_file_ends_in_one_clear_line(tmp_path: Path, name: str, body: bytes) -> None:
    source = tmp_path / "source"
    if not source.exists():
        shutil.copytree(GOLDEN / "qwen2", source)
    before = (source / name).read_bytes()
    (source / name).write_bytes(body)
    lines = attempt(source, tmp_path / "native")
    (source / name).write_bytes(before)
    assert all("\n" not in line and line.startswith(str(source)) for line in lines)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_place_of_a_setting_ends_in_one_clear_line(tmp_path: Path, data: st.DataObject) -> None:
    config = json.loads((GOLDEN / "qwen2/config.json").read_text())
    section = data.draw(st.sampled_from(["", "llm_config", "vision_config"]))
    place = config[section] if section else config
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    source = tmp_path / "source"
    if not source.exists():
        shutil.copytree(GOLDEN / "qwen2", source)
    (source / "config.json").write_text(json.dumps(config))
    assert all("\n" not in line for line in attempt(source, tmp_path / "native"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), cut=st.integers(0, 6000))
@example(body=b"\x80", cut=103)
def test_a_damaged_sentencepiece_model_ends_in_one_clear_line(tmp_path: Path, body: bytes, cut: int) -> None:
    source = tmp_path / "source"
    if not source.exists():
        shutil.copytree(GOLDEN / "internlm2", source)
    whole = (GOLDEN / "internlm2/tokenizer.model").read_bytes()
    (source / "tokenizer.model").write_bytes(whole[:cut] + body + whole[cut + len(body) :])
    assert all("\n" not in line for line in attempt(source, tmp_path / "native"))
