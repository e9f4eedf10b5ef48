from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem.errors import BadConfiguration, BadData
from tandem.evaluate.decode import decode_greedily
from tandem.evaluate.fast.engine import prepare_engine
from tandem.evaluate.generate import PlainTexts
from tandem.evaluate.job import GenerateJob
from tandem.evaluate.packed import PackedTexts
from tandem.evaluate.parts import Progress
from tandem.evaluate.records import Prediction, read_jsonl
from tandem.evaluate.run_generate import run_generate
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.shards import merge_shards, require_equal_settings
from tandem.evaluate.shelf import ShelfPlace
from tandem.store import Directory
from tests.evaluate.conftest import BASE_DIGEST, IMAGE_SIZES

NAMES = tuple(IMAGE_SIZES)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "eval.json"
    samples = [
        {
            "id": number,
            "img_name": list(NAMES[: number % 4]),
            "question": "<image>" * (number % 4) + "Which of them? " * (1 + number % 3),
            "reasoning": "It is seen.",
            "answer": "yes",
            "answer_type": "CLOSED",
        }
        for number in range(9)
    ]
    file.write_text(json.dumps(samples))
    return file


@pytest.fixture
def fields(tiny_model: Path, image_folder: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    evaluation = {
        "name": "held-out",
        "data": "eval.json",
        "tiles": {"max": 4},
        "maxNewTokens": 8,
        "batchTokens": 300,
        "precision": "float32",
    }
    return {
        "eval": evaluation,
        "model_folder": tiny_model,
        "data": data,
        "images": image_folder,
        "work": tmp_path / "work",
        "base": {"source": "tiny", "digest": BASE_DIGEST},
        "seed": 7,
    }


def read_output(folder: Path) -> tuple[list[Prediction], dict[str, Any]]:
    """All parts in the evaluation's order (ids are ascending numbers), and the record."""
    parts = sorted((folder / "output").glob("part-*.jsonl"))
    predictions = [each for part in parts for each in read_jsonl(Prediction, part.read_bytes(), where=str(part))]
    record: dict[str, Any] = json.loads((folder / "output" / "generate.json").read_text())
    return sorted(predictions, key=lambda each: int(each.sample_id)), record


def test_it_leaves_predictions_in_order_and_a_record_of_its_settings(fields: dict[str, Any], data: Path) -> None:
    told: list[Progress] = []
    run_generate(GenerateJob.model_validate(fields), report=told.append)
    predictions, record = read_output(fields["work"])
    assert merge_shards([predictions], read_eval_samples(data)) == predictions
    settings, shard = record["settings"], record["shard"]
    assert settings["tiles"] == {"max": 4, "rule": "perSample", "thumbnail": True, "from": "evaluation"}
    assert settings["marker"] == "### The final answer is:"
    assert settings["template"]["name"] == "internvl2_5"
    assert (settings["precision"], settings["seed"], settings["adapter"]) == ("float32", 7, None)
    assert settings["base"] == {"source": "tiny", "digest": BASE_DIGEST}
    assert (settings["samples"], shard["samples"]) == (9, 9)
    assert settings["batches"] == len(shard["batches"]) == len(told) > 1
    assert shard["new_tokens"] == sum(each.new_tokens or 0 for each in predictions)
    assert shard["finished"]["stop"] + shard["finished"]["length"] == 9
    assert record["schema"] == "tandem.dev/generate/v1"
    assert record["environment"]["packages"]["transformers"]


def test_again_the_same_bytes(fields: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_generate(GenerateJob.model_validate(fields | {"work": tmp_path / name}))
    for file in ("part-00000.jsonl", "generate.json"):
        assert (tmp_path / "one/output" / file).read_bytes() == (tmp_path / "two/output" / file).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_shards_merge_into_what_one_shard_says(
    fields: dict[str, Any], data: Path, tmp_path: Path, precision: str
) -> None:
    fields["eval"]["precision"] = precision
    run_generate(GenerateJob.model_validate(fields))
    whole, _ = read_output(fields["work"])
    fields["eval"]["shards"] = 3
    outputs = []
    for shard in range(3):
        work = tmp_path / f"shard-{shard}"
        run_generate(GenerateJob.model_validate(fields | {"work": work, "shard": shard}))
        outputs.append(read_output(work))
    assert merge_shards([predictions for predictions, _ in outputs], read_eval_samples(data)) == whole
    assert all(predictions for predictions, _ in outputs)
    require_equal_settings([record["settings"] for _, record in outputs])


def test_the_adapters_card_decides_where_the_evaluation_is_silent(
    fields: dict[str, Any], tiny_adapter: Path, tmp_path: Path
) -> None:
    del fields["eval"]["tiles"]
    run_generate(GenerateJob.model_validate(fields | {"adapter_folder": tiny_adapter}))
    adapted, record = read_output(fields["work"])
    assert record["settings"]["tiles"] == {"max": 2, "rule": "perSample", "thumbnail": False, "from": "adapter"}
    assert record["settings"]["marker"] == "Answer:"
    assert record["settings"]["template"]["system_message"] == "Answer briefly."
    assert record["settings"]["adapter"]["seed"] == 5
    run_generate(GenerateJob.model_validate(fields | {"tiles": {"max": 2}, "work": tmp_path / "base"}))
    base, _ = read_output(tmp_path / "base")
    assert [each.text for each in base] != [each.text for each in adapted]


def test_a_limit_takes_the_first_samples(fields: dict[str, Any]) -> None:
    run_generate(GenerateJob.model_validate(fields | {"limit": 4}))
    predictions, record = read_output(fields["work"])
    assert [each.sample_id for each in predictions] == ["0", "1", "2", "3"]
    assert record["settings"]["limit"] == 4


def test_more_shards_than_batches_leave_a_shard_without_parts(fields: dict[str, Any]) -> None:
    fields["eval"]["shards"] = 50
    run_generate(GenerateJob.model_validate(fields | {"shard": 49}))
    predictions, record = read_output(fields["work"])
    assert predictions == []
    assert record["shard"]["samples"] == 0


def test_bad_input_stops_before_the_model_is_loaded_and_leaves_nothing(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tandem.evaluate.run_generate.load_base", refuse)
    with pytest.raises(BadData, match="does not exist"):
        run_generate(GenerateJob.model_validate(fields | {"images": tmp_path}))
    del fields["eval"]["tiles"]
    with pytest.raises(BadConfiguration, match="nothing says how images are cut"):
        run_generate(GenerateJob.model_validate(fields))
    assert not fields["work"].exists()


def test_packed_generation_says_what_plain_generation_says_and_records_its_budget(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    outputs = {}
    for engine in ("plain", "packed"):
        evaluation = fields["eval"] | {"engine": engine}
        run_generate(GenerateJob.model_validate(fields | {"eval": evaluation, "work": tmp_path / engine}))
        outputs[engine] = read_output(tmp_path / engine)
    assert outputs["packed"][0] == outputs["plain"][0]
    assert outputs["plain"][1]["engine"] == {"name": "plain"}
    recorded = outputs["packed"][1]["engine"]
    assert (recorded["name"], recorded["slots"], recorded["adapter"]) == ("packed", 9, None)
    assert recorded["row_tokens"] > 0
    assert recorded["cache_tokens"] > 0
    require_equal_settings([record["settings"] for _, record in outputs.values()])


def test_packed_generation_keeps_an_adapter_beside_the_weights(
    fields: dict[str, Any], tiny_adapter: Path, tmp_path: Path
) -> None:
    predictions = []
    for engine in ("plain", "packed"):
        evaluation = fields["eval"] | {"engine": engine}
        job = fields | {"eval": evaluation, "adapter_folder": tiny_adapter, "work": tmp_path / engine}
        run_generate(GenerateJob.model_validate(job))
        predictions.append(read_output(tmp_path / engine))
    assert predictions[0][0] == predictions[1][0]
    assert predictions[1][1]["engine"]["adapter"] == "beside"


def test_on_cpu_auto_is_plain(fields: dict[str, Any]) -> None:
    run_generate(GenerateJob.model_validate(fields))
    assert read_output(fields["work"])[1]["engine"] == {"name": "plain"}


def decode_alone(network: Any, prompts: Sequence[Sequence[int]], *others: Any, **named: Any) -> list[list[int]]:
    """On a device with room for one sample at a time."""
    if len(prompts) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return decode_greedily(network, prompts, *others, **named)


def generate_on(store: Path, execution: str, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Generate as one execution of a stage that keeps its parts in `store`; the record, and what was said."""
    told: list[str] = []
    place = ShelfPlace(store=Directory(store), executions="executions/", execution=execution)
    work = store.parent / f"work-{execution}"
    run_generate(GenerateJob.model_validate(fields | {"work": work}), shelf=place, say=told.append)
    return read_output(work)[1], told


def lose_all_but_the_first_part(store: Path) -> None:
    """As an execution leaves it that was broken off in its second part."""
    for file in (store / "executions/001").glob("part-*"):
        if not file.name.startswith("part-00000"):
            file.unlink()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for maker in (PlainTexts, PackedTexts):
        monkeypatch.setattr(f"tandem.evaluate.run_generate.{maker.__name__}", functools.partial(maker, least_samples=2))


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("engine", ["plain", "packed"])
def test_texts_in_bfloat16_are_the_same_after_a_restart(fields: dict[str, Any], tmp_path: Path, engine: str) -> None:
    fields["eval"] |= {"engine": engine, "precision": "bfloat16"}
    first, _ = generate_on(tmp_path / "store", "001", fields)
    lose_all_but_the_first_part(tmp_path / "store")
    second, told = generate_on(tmp_path / "store", "002", fields)
    assert first["reused"] == {"parts": {}, "texts_may_differ": False}
    assert second["reused"] == {"parts": {"part-00000.jsonl": "001"}, "texts_may_differ": False}
    assert (first["shard"], first["engine"]) == (second["shard"], second["engine"])
    assert told == []
    before, after = (read_output(tmp_path / f"work-{execution}")[0] for execution in ("001", "002"))
    assert before == after


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("precision", "may_differ"), [("float32", False), ("bfloat16", True)])
def test_packed_texts_in_bfloat16_may_differ_where_parts_were_made_with_another_budget(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, may_differ: bool
) -> None:
    fields["eval"] |= {"engine": "packed", "precision": precision}
    generate_on(tmp_path / "store", "001", fields)
    lose_all_but_the_first_part(tmp_path / "store")
    monkeypatch.setattr("tandem.evaluate.fast.engine.MOST_SLOTS", 2)
    record, told = generate_on(tmp_path / "store", "002", fields)
    assert record["reused"] == {"parts": {"part-00000.jsonl": "001"}, "texts_may_differ": may_differ}
    assert told == []


@pytest.mark.usefixtures("small_parts")
def test_packed_texts_in_bfloat16_may_differ_after_memory_ran_out_in_every_attempt(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undisturbed, the second attempt's parts would not have been begun with the whole budget."""

    def prepare_half(*arguments: Any, halvings: int, **named: Any) -> Any:
        if halvings == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare_engine(*arguments, halvings=halvings, **named)

    fields["eval"] |= {"engine": "packed", "precision": "bfloat16"}
    monkeypatch.setattr(
        "tandem.evaluate.run_generate.PackedTexts",
        functools.partial(PackedTexts, least_samples=2, prepare=prepare_half),
    )
    first, _ = generate_on(tmp_path / "store", "001", fields)
    lose_all_but_the_first_part(tmp_path / "store")
    second, _ = generate_on(tmp_path / "store", "002", fields)
    assert first["engine"] == second["engine"]
    assert not first["reused"]["texts_may_differ"]
    assert second["reused"]["texts_may_differ"]


def test_texts_in_bfloat16_may_differ_after_batches_were_halved_whose_size_a_restart_has_forgotten(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields["eval"] |= {"engine": "plain", "precision": "bfloat16"}
    monkeypatch.setattr("tandem.evaluate.run_generate.PlainTexts", functools.partial(PlainTexts, decode=decode_alone))
    generate_on(tmp_path / "store", "001", fields)
    assert generate_on(tmp_path / "store", "002", fields)[0]["reused"]["texts_may_differ"]


def test_parts_of_another_adapter_under_the_same_card_are_not_gone_on_with(
    fields: dict[str, Any], tiny_adapter: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, adapter)
    fields["adapter_folder"] = adapter
    generate_on(tmp_path / "store", "001", fields)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, adapter / "adapter_model.safetensors")
    record, told = generate_on(tmp_path / "store", "002", fields)
    assert record["reused"]["parts"] == {}
    assert told == ["the parts of 001 are not used: they differ in adapter_weights"]


def test_what_was_halved_is_counted_in_the_record(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.evaluate.run_generate.PlainTexts", functools.partial(PlainTexts, decode=decode_alone))
    run_generate(GenerateJob.model_validate(fields))
    predictions, record = read_output(fields["work"])
    halvings = [each.batch_halvings for each in predictions]
    assert record["shard"]["halved"] == {"samples": sum(n > 0 for n in halvings), "most": max(halvings)}
    assert max(halvings) > 0
