"""What the tests of generation share: a tiny model, an adapter on it, and images of several shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tandem.model.card import AdapterCard, CardBase, CardTiles, write_card
from tandem.model.tiny import make_tiny_model

BASE_DIGEST = "sha256:" + "0" * 64
IMAGE_SIZES = {"square.png": (60, 60), "wide.png": (230, 70), "tall.png": (64, 190)}
CARD = AdapterCard(
    tiles=CardTiles(max=2, rule="perSample", thumbnail=False),
    template="internvl2_5",
    system_message="Answer briefly.",
    answer_template="Answer: {answer}",
    base=CardBase(source="tiny", digest=BASE_DIGEST),
    seed=5,
)
PROJECTIONS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_model(folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with weights drawn at random, so that it changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tandem.model.loading import load_base

    folder = tmp_path_factory.mktemp("tiny") / "adapter"
    network = load_base(tiny_model, precision="float32", device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted = get_peft_model(network, LoraConfig(r=4, target_modules=PROJECTIONS, init_lora_weights=False))
    adapted.save_pretrained(str(folder))
    write_card(folder, CARD)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients in different colours, so that tiles of one image differ."""
    folder = tmp_path_factory.mktemp("images")
    for number, (name, (width, height)) in enumerate(IMAGE_SIZES.items()):
        image = Image.new("RGB", (width, height))
        image.putdata(
            [((x * 3 + 80 * number) % 256, (y * 5) % 256, (x * y) % 256) for y in range(height) for x in range(width)]
        )
        image.save(folder / name)
    return folder
