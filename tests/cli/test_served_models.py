"""docs/served-models.md: its commands are run, and a real server's texts are held against the same model's here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tandem.evaluate.job import GenerateJob, ShardJob
from tandem.evaluate.records import Prediction, read_jsonl
from tandem.evaluate.run_endpoint import run_endpoint
from tandem.evaluate.run_generate import run_generate
from tandem.model.convert import render_chat_template
from tandem.model.prompt import INTERNVL2_5
from tandem.model.tiny import make_tiny_model
from tests.e2e.desk import Desk
from tests.servers import transformers_serving

PAGE = Path(__file__).parents[2] / "docs" / "served-models.md"
KEY = {"TANDEM_ENDPOINT_API_KEY": "none"}
BASE = {"source": "demo-merged", "digest": "sha256:" + "0" * 64}
TILE = 56

# Images of one tile are not resized, so that both sides see the same pixels; the others only count the same.
QUESTIONS: list[tuple[str, list[str]]] = [
    ("Which of them?", []),
    ("<image>\nIs it round?", ["tile.png"]),
    ("Compare <image>\nwith <image>\nand say which is round.", ["tile.jpg", "tile.png"]),
    ("Is it round?", ["tile.bmp"]),
    ("<image>\nIs it wide?", ["wide.png"]),
]
SAME_PIXELS = 4


def read_blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for found, block in blocks if found == language]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A model as `tandem merge` writes it, questions about images of several sizes and formats, and the page's Run."""
    desk = Desk(folder=tmp_path_factory.mktemp("desk"), extra=KEY)
    model = desk.folder / "demo-merged"
    make_tiny_model(model, seed=3, tile_size=TILE)
    template = render_chat_template(INTERNVL2_5.system_message, begins=False)
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    picture = Image.radial_gradient("L").convert("RGB")
    for name in ("tile.png", "tile.jpg", "tile.bmp"):
        picture.resize((TILE, TILE)).save(desk.folder / name)
    picture.resize((4 * TILE, TILE)).save(desk.folder / "wide.png")
    samples = [
        {"id": number, "img_name": images, "question": question, "answer": "yes", "answer_type": "CLOSED"}
        for number, (question, images) in enumerate(QUESTIONS)
    ]
    (desk.folder / "eval.json").write_text(json.dumps(samples))
    return desk


@pytest.fixture(scope="module")
def served(desk: Desk) -> Iterator[str]:
    """The address of the server that the page starts."""
    (command,) = [line for block in read_blocks("") for line in block.splitlines() if line.startswith("transformers ")]
    name, serve, model, *_ = shlex.split(command)
    assert (name, serve) == ("transformers", "serve")
    with transformers_serving(desk.folder, model) as base_url:
        yield base_url


def shard(desk: Desk, name: str, **evaluation: Any) -> dict[str, Any]:
    return {
        "eval": {"name": name, "data": "eval.json", "of": "base", "maxNewTokens": 12, **evaluation},
        "data": desk.folder / "eval.json",
        "images": desk.folder,
        "work": desk.folder / name,
        "base": BASE,
        "seed": 0,
    }


def read_texts(work: Path) -> list[Prediction]:
    (part,) = (work / "output").glob("part-*.jsonl")
    return read_jsonl(Prediction, part.read_bytes(), where=str(part))


def ask(desk: Desk, name: str, served: str, **endpoint: Any) -> list[Prediction]:
    spec = {"baseUrl": served, "model": "demo-merged", **endpoint}
    job = ShardJob.model_validate(shard(desk, name, endpoint=spec))
    run_endpoint(job, environment=KEY)
    return read_texts(desk.folder / name)


@pytest.fixture(scope="module")
def texts(desk: Desk, served: str) -> tuple[list[Prediction], list[Prediction]]:
    """The same questions answered by the server and by the same model in this process."""
    here = shard(desk, "here", precision="float32", tiles={"max": 12, "rule": "perImage"})
    run_generate(GenerateJob.model_validate(here | {"model_folder": desk.folder / "demo-merged"}))
    return ask(desk, "there", served), read_texts(desk.folder / "here")


def test_every_command_of_the_page_works(desk: Desk, served: str) -> None:
    (run,) = read_blocks("yaml")
    assert "http://127.0.0.1:8000/v1" in run
    (desk.folder / "served.yaml").write_text(run.replace("http://127.0.0.1:8000/v1", served))
    commands = [line for block in read_blocks("") for line in block.splitlines() if line.startswith("tandem ")]
    assert [shlex.split(command)[1] for command in commands] == ["check", "run", "show"]
    for command in commands:
        answer = desk.tandem(*shlex.split(command)[1:])
        assert answer.code == 0, answer.err
    (entry,) = desk.describe("served")["results"]
    result = entry["result"]
    assert (result["preprocessing"], result["samples"]["total"]) == ("server", len(QUESTIONS))
    (source,) = result["texts_served_by"]
    assert (source["model"], source["texts"]) == ("demo-merged@main", len(QUESTIONS))
    assert "held-out: 5 texts by demo-merged@main" in desk.tandem("show", "served", "--across-preprocessing").out


def test_where_nothing_is_resized_the_servers_texts_are_those_of_the_model_here(
    texts: tuple[list[Prediction], list[Prediction]],
) -> None:
    there, here = (side[:SAME_PIXELS] for side in texts)
    assert [each.text for each in there] == [each.text for each in here]
    assert [each.finish for each in there] == [each.finish for each in here]
    assert len({each.text for each in here}) > 1


def test_the_server_reads_as_many_tokens_as_the_model_here(texts: tuple[list[Prediction], list[Prediction]]) -> None:
    there, here = ([each.prompt_tokens for each in side] for side in texts)
    assert there == here
    assert [each.tiles for each in texts[1]] == [0, 1, 2, 1, 5]


def test_a_text_that_the_token_limit_ends_is_told_apart(texts: tuple[list[Prediction], list[Prediction]]) -> None:
    assert {each.finish for each in texts[0] if each.new_tokens == 12} == {"length"}


def test_another_system_message_is_read_by_the_server(
    desk: Desk, served: str, texts: tuple[list[Prediction], list[Prediction]]
) -> None:
    told = ask(desk, "told", served, systemMessage="Be brief.")
    usual = [each.prompt_tokens or 0 for each in texts[0]]
    (longer,) = {(each.prompt_tokens or 0) - before for before, each in zip(usual, told, strict=True)}
    assert longer != 0
    assert [each.text for each in told] != [each.text for each in texts[0]]


def test_a_model_that_the_server_does_not_have_is_one_line(desk: Desk, served: str) -> None:
    run = read_blocks("yaml")[0].replace("http://127.0.0.1:8000/v1", served)
    (desk.folder / "other.yaml").write_text(run.replace("model: demo-merged\n", "model: another\n"))
    answer = desk.tandem("run", "other.yaml")
    assert answer.code == 78, answer.err
    last = answer.err.splitlines()[-1]
    assert "(refused: HTTP 400" in last
    assert "requested 'another'" in last
