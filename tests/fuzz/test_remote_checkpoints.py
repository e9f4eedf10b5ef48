"""Any checkpoint in the remote-code format becomes a native one that loads, or faults, and then nothing is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.model.convert import _read_source, convert_checkpoint
from tandem.model.convert_config import read_remote_config
from tandem.model.info import read_model_info
from tests.fuzz.damage import fuzzing, read_or_faults
from tests.fuzz.folders import damaged
from tests.model.remote import FAMILIES, GOLDEN

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::UserWarning")]

TOKENIZERS = {
    "qwen2": ["tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt"],
    "internlm2": ["tokenizer_config.json", "added_tokens.json", "tokenizer.model", "tokenizer.model"],
}
WEIGHTS = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model.safetensors.index.json"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("remote")
    return {family: Path(shutil.copytree(GOLDEN / family, folder / family)) for family in FAMILIES}


@fuzzing(300)
@given(st.data())
def test_damaged_settings_are_settings_or_faults(sources: dict[str, Path], data: st.DataObject) -> None:
    folder = sources[data.draw(st.sampled_from(FAMILIES))]
    with damaged(folder, "config.json", data):
        read_or_faults(lambda: read_remote_config(folder))


@fuzzing(600)
@given(st.data())
def test_damaged_files_are_read_or_faults(sources: dict[str, Path], data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(FAMILIES))
    with damaged(sources[family], data.draw(st.sampled_from([*TOKENIZERS[family], *WEIGHTS])), data):
        read_or_faults(lambda: _read_source(sources[family]))


@fuzzing(100)
@given(st.data())
def test_a_damaged_checkpoint_is_converted_or_leaves_nothing(
    sources: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    family = data.draw(st.sampled_from(FAMILIES))
    names = ["config.json", "generation_config.json", *TOKENIZERS[family], *WEIGHTS]
    with damaged(sources[family], data.draw(st.sampled_from(names)), data):
        found = read_or_faults(lambda: convert_checkpoint(sources[family], tmp_path / "made"))
    if found is None:
        assert not list(tmp_path.iterdir())
    else:
        assert read_model_info(tmp_path / "made").parameters == found.parameters
        shutil.rmtree(tmp_path / "made")
