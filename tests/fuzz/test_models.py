"""Any model folder and any adapter is what it says, or faults; no more is allocated than their files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.check.memory import estimate_generation
from tandem.check.tokens import read_tokenizer
from tandem.model.card import choose_template, read_card
from tandem.model.info import read_model_info
from tandem.model.loading import load_adapter, load_base, load_tokenizer
from tandem.model.tiny import make_tiny_model
from tandem.spec import Precision
from tests.fuzz.damage import fuzzing, read_or_faults
from tests.fuzz.folders import damaged
from tests.model.test_merge import make_adapter

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    make_tiny_model(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("models") / "adapter")


@pytest.fixture(scope="module")
def loaded(base: Path) -> Any:
    return load_base(base, precision="float32", device="cpu")


@fuzzing(500)
@given(st.data())
def test_a_damaged_model_is_described_or_faults(base: Path, data: st.DataObject) -> None:
    with damaged(base, data.draw(st.sampled_from(["config.json", "config.json", "model.safetensors"])), data):
        info = read_or_faults(lambda: read_model_info(base))
    if info is not None:
        assert info.parameters >= 0
        assert info.tokens_per_tile >= 1
        assert estimate_generation(info, precision=Precision.BFLOAT16, tokens=1, sequences=1).total > 0


@fuzzing(200)
@given(st.data())
def test_a_damaged_tokenizer_counts_or_faults(base: Path, data: st.DataObject) -> None:
    with damaged(base, data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"])), data):
        tokenizer = read_or_faults(lambda: read_tokenizer(base))
        if tokenizer is not None:
            read_or_faults(lambda: tokenizer(["<img> Größe"], add_special_tokens=False))


@fuzzing(60)
@given(st.data())
def test_a_damaged_tokenizer_is_loaded_or_faults(base: Path, data: st.DataObject) -> None:
    with damaged(base, data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"])), data):
        read_or_faults(lambda: load_tokenizer(base))


@fuzzing(60)
@given(st.data())
def test_a_damaged_base_is_loaded_or_faults(base: Path, data: st.DataObject) -> None:
    with damaged(base, data.draw(st.sampled_from(["config.json", "config.json", "model.safetensors"])), data):
        read_or_faults(lambda: load_base(base, precision="float32", device="cpu"))


@fuzzing(200)
@given(st.data())
def test_a_damaged_card_is_a_card_or_faults(adapter: Path, data: st.DataObject) -> None:
    with damaged(adapter, "tandem.json", data):
        read_or_faults(lambda: choose_template(read_card(adapter)))


@fuzzing(60)
@given(st.data())
def test_a_damaged_adapter_is_loaded_or_faults(loaded: Any, adapter: Path, data: st.DataObject) -> None:
    with damaged(adapter, data.draw(st.sampled_from(["adapter_config.json", "adapter_model.safetensors"])), data):
        found = read_or_faults(lambda: load_adapter(loaded, adapter))
    if found is not None:
        found.unload()
