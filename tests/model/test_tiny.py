import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.model.tiny import HEADS, IMAGE_TOKENS, SPECIAL_TOKENS, make_tiny_model


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_model(folder, seed=1)
    return folder


def test_has_the_files_of_a_published_native_checkpoint(tiny: Path) -> None:
    assert set(digests(tiny)) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_names_its_tensors_as_published_native_checkpoints_do(tiny: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
    # The names in OpenGVLab/InternVL3-1B-hf's model.safetensors.
    assert {
        "language_model.lm_head.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.embeddings.patch_embeddings.projection.weight",
    } <= names


def test_gives_the_same_bytes_for_the_same_seed_in_another_process(tiny: Path, tmp_path: Path) -> None:
    program = "import sys; from tandem.model.tiny import make_tiny_model; make_tiny_model(sys.argv[1], seed=1)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "again")], check=True, capture_output=True)
    assert digests(tmp_path / "again") == digests(tiny)


def test_gives_other_weights_for_another_seed_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "other", seed=2)
    before, after = digests(tiny), digests(tmp_path / "other")
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}


def test_leaves_the_random_generator_of_its_process_alone(tmp_path: Path) -> None:
    import torch

    state = torch.random.get_rng_state()
    make_tiny_model(tmp_path / "model", seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_loads_without_missing_or_unknown_weights(tiny: Path) -> None:
    from transformers import AutoConfig, InternVLForConditionalGeneration

    loaded: Any = InternVLForConditionalGeneration.from_pretrained(tiny, output_loading_info=True)
    model, loading = loaded
    assert not any(loading.values())
    assert AutoConfig.from_pretrained(tiny).image_token_id == model.config.image_token_id
    assert model.generation_config.eos_token_id == model.config.text_config.eos_token_id


def test_sizes_are_those_that_were_asked_for(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "m", seed=0, text_size=128, vision_size=64, layers=3, tile_size=112)
    config = read_json(tmp_path / "m" / "config.json")
    assert config["text_config"]["hidden_size"] == 128
    assert config["text_config"]["num_hidden_layers"] == config["vision_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["hidden_size"] == 64
    assert config["vision_config"]["image_size"] == [112, 112]
    assert config["image_seq_length"] == 16
    assert read_json(tmp_path / "m" / "preprocessor_config.json")["size"] == {"height": 112, "width": 112}
    assert read_json(tmp_path / "m" / "processor_config.json")["image_seq_length"] == 16


def test_matrices_are_as_large_as_std_says_and_norms_start_at_one(tiny: Path) -> None:
    from safetensors.numpy import load_file

    weights = load_file(tiny / "model.safetensors")
    head = weights["language_model.lm_head.weight"]
    assert head.std() == pytest.approx(0.1, rel=0.02)
    assert abs(head.mean()) < 0.005
    assert (weights["language_model.model.norm.weight"] == 1).all()


def test_tokenizer_knows_chat_and_image_tokens_as_single_special_tokens(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert len(set(ids)) == len(SPECIAL_TOKENS)
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer(token).input_ids == [number]
        assert tokenizer.decode([number], skip_special_tokens=True) == ""
    for name, token in IMAGE_TOKENS.items():
        assert getattr(tokenizer, name) == token
    assert tokenizer.eos_token == "<|im_end|>"
    config = read_json(tiny / "config.json")
    assert config["image_token_id"] == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert config["text_config"]["vocab_size"] == len(tokenizer)


@pytest.mark.parametrize("text", ["Is it 17? \n\nYes!", "你是书生·万象", "naïve  \t tabs", "🦀"])
def test_tokenizer_gives_back_any_text(tiny: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_words_of_the_corpus_become_tokens_but_digits_stay_alone(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_tiny_model(tmp_path / "m", seed=0, corpus=["seventeen 17 17 17 17"], vocabulary=300)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.tokenize("seventeen 17") == ["seventeen", "Ġ", "1", "7"]


def test_chat_template_ends_turns_and_opens_the_assistants(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\n<IMG_CONTEXT>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"


def test_all_sizes_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as caught:
        make_tiny_model(tmp_path, seed=0, text_size=2 * HEADS + 1, vision_size=0, tile_size=60, vocabulary=9)
    assert [fault.where.split()[-1] for fault in caught.value.faults] == [
        "text_size",
        "vision_size",
        "tile_size",
        "vocabulary",
    ]
    assert list(tmp_path.iterdir()) == []
