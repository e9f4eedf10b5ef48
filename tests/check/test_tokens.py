"""The light tokenizer counts what transformers counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.check.tokens import read_tokenizer
from tandem.errors import BadData
from tandem.model.loading import load_tokenizer
from tandem.model.prompt import Turn, encode_prompt


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=3))
def test_its_ids_are_those_of_transformers(sound_model: Path, texts: list[str]) -> None:
    texts = [*texts, "<|im_start|>user\n<img><IMG_CONTEXT></img> Look: ### The final answer is: 10²<|im_end|>\n"]
    ours = read_tokenizer(sound_model)(texts, add_special_tokens=False)["input_ids"]
    theirs = _transformers(sound_model)(texts, add_special_tokens=False)["input_ids"]
    assert ours == theirs


def test_prompts_are_as_long_as_with_transformers(sound_model: Path) -> None:
    turns = [Turn(role="user", text="<image>\nIs it round?")]
    prompts = [
        encode_prompt(tokenizer, turns, [3], tokens_per_tile=4)
        for tokenizer in (read_tokenizer(sound_model), _transformers(sound_model))
    ]
    assert prompts[0] == prompts[1]


def test_a_tokenizer_that_begins_with_bos_is_read_as_such(sound_model: Path, tmp_path: Path) -> None:
    shutil.copy(sound_model / "tokenizer.json", tmp_path)
    settings = json.loads((sound_model / "tokenizer_config.json").read_text())
    for bos in ("<|endoftext|>", {"content": "<|endoftext|>"}):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps(settings | {"add_bos_token": True, "bos_token": bos})
        )
        tokenizer = read_tokenizer(tmp_path)
        assert tokenizer.add_bos_token
        assert tokenizer.bos_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>") is not None


def test_a_tokenizer_without_internvl_s_tokens_is_refused(sound_model: Path, tmp_path: Path) -> None:
    text = (sound_model / "tokenizer.json").read_text().replace("<IMG_CONTEXT>", "<OTHER>")
    (tmp_path / "tokenizer.json").write_text(text)
    shutil.copy(sound_model / "tokenizer_config.json", tmp_path)
    with pytest.raises(BadData, match="lacks <IMG_CONTEXT>"):
        read_tokenizer(tmp_path)


_loaded: dict[Path, object] = {}


def _transformers(folder: Path):  # type: ignore[no-untyped-def]
    if folder not in _loaded:
        _loaded[folder] = load_tokenizer(folder)
    return _loaded[folder]
