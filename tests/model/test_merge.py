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
from transformers import AutoModelForImageTextToText

from tandem.errors import BadConfiguration, BadData
from tandem.model.card import AdapterCard, CardBase, CardTiles, write_card
from tandem.model.convert import convert_checkpoint
from tandem.model.loading import load_adapter, load_base, load_tokenizer
from tandem.model.merge import MergedCard, merge_adapter
from tandem.model.tiny import make_tiny_model
from tests.model.remote import FAMILIES, GOLDEN, change_json

PROJECTIONS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
DIGEST, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
ORIGIN = CardBase(source="demo-0123456789", digest=f"sha256:{'3' * 64}")
SYSTEM = 'You are a "radiologist".\nBe brief.'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge") / "base"
    make_tiny_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("merge") / "adapter")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def make_adapter(base: Path, folder: Path, **changes: Any) -> Path:
    """An adapter whose matrices are both drawn at random, so that it changes every projection."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": PROJECTIONS, "init_lora_weights": False, **changes}
    )
    get_peft_model(load_base(base, precision="float32", device="cpu"), config).save_pretrained(str(folder))
    card = AdapterCard(
        tiles=CardTiles(max=6, rule="perSample", thumbnail=True),
        template="internvl2_5",
        system_message=SYSTEM,
        answer_template="### The final answer is: {answer}",
        base=CardBase(source="models/base", digest=DIGEST),
        seed=7,
    )
    write_card(folder, card)
    return folder


def merge(base: Path, adapter: Path, destination: Path, **changes: Any) -> MergedCard:
    return merge_adapter(base, adapter, destination, **{"base_digest": DIGEST, "adapter_origin": ORIGIN, **changes})


def read_logits(model: Any, image_token: int) -> torch.Tensor:
    torch.manual_seed(3)
    ids = torch.tensor([[*range(10, 30), *[image_token] * 4, *range(40, 60)]])
    with torch.no_grad():
        logits: torch.Tensor = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.randn(1, 3, 56, 56)
        ).logits
    return logits


def assert_merged_is_unmerged(base: Path, adapter: Path, merged: Path) -> None:
    plain: Any = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32, use_safetensors=True)
    plain.eval()
    apart = load_adapter(load_base(base, precision="float32", device="cpu"), adapter)
    alone = load_base(base, precision="float32", device="cpu")
    image_token = plain.config.image_token_id
    expected = read_logits(apart, image_token)
    torch.testing.assert_close(read_logits(plain, image_token), expected, atol=1e-5, rtol=1e-5)
    assert (read_logits(alone, image_token) - expected).abs().max() > 0.1


def test_plain_transformers_gives_the_logits_of_base_and_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, adapter, tmp_path / "merged")
    assert_merged_is_unmerged(base, adapter, tmp_path / "merged")


def test_the_scale_of_rank_stabilised_lora_is_its_own(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_rslora=True, lora_alpha=6)
    merge(base, adapter, tmp_path / "merged")
    assert_merged_is_unmerged(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_checkpoint_can_be_merged_in_its_own_precision(family: str, tmp_path: Path) -> None:
    convert_checkpoint(GOLDEN / family, tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter")
    merge(tmp_path / "base", adapter, tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert before.keys() == after.keys()
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight") and name.startswith("language_model")}
    wide = {name: weight.float() for name, weight in before.items()}
    pair = load_file(adapter / "adapter_model.safetensors")
    name = "language_model.model.layers.1.mlp.down_proj"
    place = "base_model.model.model.language_model.layers.1.mlp.down_proj"
    change = 3 * pair[f"{place}.lora_B.weight"] @ pair[f"{place}.lora_A.weight"]
    assert torch.equal(after[f"{name}.weight"], (wide[f"{name}.weight"] + change).bfloat16())


def test_names_are_those_of_the_published_layout_whatever_the_base_uses(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    new_names = tmp_path / "new-names"
    shutil.copytree(base, new_names)
    weights = load_file(base / "model.safetensors")
    renamed = {}
    for name, weight in weights.items():
        new = (
            "lm_head.weight"
            if "lm_head" in name
            else f"model.{name}".replace("language_model.model.", "language_model.")
        )
        renamed[new] = weight
    save_file(renamed, new_names / "model.safetensors", metadata={"format": "pt"})
    merge(new_names, adapter, tmp_path / "first")
    merge(base, adapter, tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys() == weights.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    prefixes = {name.split(".")[0] for name in first}
    assert prefixes == {"language_model", "vision_tower", "multi_modal_projector"}


def test_the_card_says_how_to_ask_and_what_it_was_made_of(base: Path, adapter: Path, tmp_path: Path) -> None:
    card = merge(base, adapter, tmp_path / "merged")
    written = json.loads((tmp_path / "merged/tandem.json").read_text())
    assert MergedCard.model_validate(written) == card
    assert written["schema"] == "tandem.dev/merged/v1"
    assert written["base"] == {"source": "models/base", "digest": DIGEST}
    assert written["adapter"] == ORIGIN.model_dump()
    assert written["answer_template"] == "### The final answer is: {answer}"
    assert written["tiles"] == {"max": 6, "rule": "perSample", "thumbnail": True}
    tokenizer: Any = load_tokenizer(tmp_path / "merged")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert asked == f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"


def test_equal_input_gives_equal_bytes_in_whatever_shards(base: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        merge(base, adapter, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()} == files
    merge(base, adapter, tmp_path / "shards", shard_bytes=200_000)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    merge(tmp_path / "shards", adapter, tmp_path / "twice")
    assert_merged_is_unmerged(base, adapter, tmp_path / "shards")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora: Input should be False"),
        ({"bias": "all"}, "bias: Input should be 'none'"),
        ({"peft_type": "LOHA"}, "peft_type: Input should be 'LORA'"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern: Dictionary should have at most 0 items"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: List should have at most 0 items"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"lora_alpha": None}, "lora_alpha: Field required"),
    ],
)
def test_an_adapter_that_is_more_than_a_plain_lora_is_refused(
    base: Path, copy: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change_json(copy / "adapter_config.json", **changes)
    with pytest.raises(BadData) as raised:
        merge(base, copy, tmp_path / "merged")
    assert message in str(raised.value)
    assert not (tmp_path / "merged").exists()


def change_matrices(adapter: Path, change: Any) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights)
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


FIRST = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{FIRST}.lora_A.weight"), "1 weights have one of the two matrices only"),
        (lambda w: w.update({f"{FIRST}.lora_magnitude_vector": torch.ones(2)}), "1 weights are no matrix of a LoRA"),
        (lambda w: w.clear(), "holds no matrix of a LoRA"),
        (
            lambda w: w.update({f"{FIRST}.lora_A.weight": torch.ones(4, 3)}),
            "1 weights of the adapter have another shape",
        ),
        (
            lambda w: w.update(
                {name.replace("layers.1", "layers.9"): w.pop(name) for name in list(w) if "layers.1" in name}
            ),
            "7 weights of the adapter have no place in this base",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_named(base: Path, copy: Path, tmp_path: Path, change: Any, message: str) -> None:
    change_matrices(copy, change)
    with pytest.raises(BadData, match=message):
        merge(base, copy, tmp_path / "merged")


def test_a_base_that_the_adapter_was_not_trained_on_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"was trained on models/base \(sha256:1+\), not on this base \(sha256:2+\)"):
        merge(base, adapter, tmp_path / "merged", base_digest=OTHER)
    with pytest.raises(BadConfiguration, match="Convert it once: tandem convert"):
        merge(GOLDEN / "qwen2", adapter, tmp_path / "merged")


def test_a_base_with_a_weight_too_few_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(base, tmp_path / "broken"))
    weights = load_file(base / "model.safetensors")
    del weights["vision_tower.embeddings.cls_token"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadData, match=r"1 weights are missing.*vision_tower.embeddings.cls_token first"):
        merge(broken, adapter, tmp_path / "merged")


def test_a_destination_that_is_there_is_left_as_it_is(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged/kept").touch()
    with pytest.raises(BadConfiguration, match="is there already"):
        merge(base, adapter, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["kept"]


MEASURE = """
import sys
from pathlib import Path
from tandem.model.card import CardBase
from tandem.model.merge import merge_adapter

def peak(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def run(base, adapter, destination):
    origin = CardBase(source="a", digest=sys.argv[6])
    merge_adapter(base, adapter, destination, base_digest=sys.argv[6], adapter_origin=origin)

large, large_adapter, small, small_adapter, out = map(Path, sys.argv[1:6])
run(small, small_adapter, out / "merged-small")  # what the libraries need is not counted
Path("/proc/self/clear_refs").write_text("5")
before = peak("VmRSS")
run(large, large_adapter, out / "merged")
print(peak("VmHWM") - before)
"""


def test_memory_stays_far_below_the_models_size(base: Path, adapter: Path, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "large", seed=1, text_size=1024, layers=8)
    large = make_adapter(tmp_path / "large", tmp_path / "adapter")
    size = (tmp_path / "large/model.safetensors").stat().st_size
    assert size > 250e6
    folders = map(str, (tmp_path / "large", large, base, adapter, tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders, DIGEST], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) < size / 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["adapter_config.json", "adapter_model.safetensors", "tandem.json"]),
    body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
)
@example(name="adapter_config.json", body=b"[" * 100_000)
@example(name="adapter_model.safetensors", body=(2).to_bytes(8, "little") + b"{}")
def test_garbage_in_an_adapter_ends_in_one_clear_line(
    base: Path, adapter: Path, tmp_path: Path, name: str, body: bytes
) -> None:
    broken = tmp_path / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(adapter, broken)
    (broken / name).write_bytes(body)
    with pytest.raises(BadData) as raised:
        merge(base, broken, tmp_path / "merged")
    assert all("\n" not in str(fault) for fault in raised.value.faults)
