from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import BadData
from tandem.train.fitting import Memory, Trial
from tandem.train.job import RankJob, write_job
from tandem.train.ranks import Ranks
from tandem.train.recipe import describe_rules, prepare_folders
from tests.train.small import (
    MakeJob,
    adapter_bytes,
    in_child,
    logs_of,
    metrics_of,
    outcomes_of,
    start_ranks,
    succeed,
    train,
    wait_for,
)

VALIDATED = {"validation": {"meta": "val.json"}}


@pytest.fixture(scope="module")
def plain(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RankJob:
    """One rank, packed, no DeepSpeed, dropout 0: what the others are compared with."""
    from tests.train.conftest import build_job

    return succeed(build_job(VALIDATED, tiny_model=tiny_model, data=data, folder=tmp_path_factory.mktemp("plain")))


def losses_of(job: RankJob) -> list[float]:
    return [line["loss"] for line in metrics_of(job) if "loss" in line]


def validation_losses_of(job: RankJob) -> list[float]:
    return [line["validation_loss"] for line in metrics_of(job) if "validation_loss" in line]


def weights_of(job: RankJob) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights: dict[str, Any] = load_file(job.output / "adapter" / "adapter_model.safetensors")
    return weights


def test_a_training_leaves_an_adapter_with_its_card(plain: RankJob) -> None:
    card = json.loads((plain.output / "adapter" / "tandem.json").read_text())
    assert card["schema"] == "tandem.dev/adapter/v1"
    assert card["tiles"] == {"max": 2, "rule": "perSample", "thumbnail": True}
    assert card["template"] == "internvl2_5"
    assert card["answer_template"] == "### The final answer is: {answer}"
    assert card["base"]["source"] == "tiny"
    config = json.loads((plain.output / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert sorted(path.name for path in (plain.output / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tandem.json",
    ]


def test_metrics_have_a_line_for_each_step_and_each_validation(plain: RankJob) -> None:
    lines = metrics_of(plain)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(
        set(line) == {"step", "loss", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "memory", "epoch"}
        for line in steps
    )
    assert [line["step"] for line in lines if "validation_loss" in line] == [2, 4]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_the_record_names_the_checkpoint_with_the_lowest_validation_loss(plain: RankJob) -> None:
    record = json.loads((plain.output / "train.json").read_text())
    measured = {line["step"]: line["validation_loss"] for line in metrics_of(plain) if "validation_loss" in line}
    best = min(measured, key=lambda step: measured[step])
    assert record["checkpoints"]["best"] == {"name": f"step-{best:06d}", "step": best, "loss": measured[best]}
    assert record["checkpoints"]["steps"] == [2, 4]
    assert record["samples"]["used"] == 14
    assert record["memory"] == {"packed_tokens": 320, "gradient_checkpointing": False, "tried": []}
    assert record["compile"] == {"seconds": 0.0, "graphs": 0, "recompilations": 0}
    assert record["ways"]["not_taken"] == []
    assert record["ways"]["chosen"]["fused_lora"] is False


@pytest.mark.parametrize("where", ["adapter", "checkpoints/step-000004"])
def test_the_adapter_and_every_checkpoint_load_as_adapters(plain: RankJob, where: str) -> None:
    import torch

    from tandem.model.card import read_card
    from tandem.model.loading import load_adapter, load_base

    folder = plain.output / where
    adapted = load_adapter(load_base(plain.model_folder, precision="float32", device="cpu"), folder)
    loaded = {name: weight for name, weight in adapted.state_dict().items() if "lora_" in name}
    stored = {name.replace(".weight", ".default.weight"): weight for name, weight in weights_of(plain).items()}
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert read_card(folder).seed == 3


def test_the_environment_is_recorded(plain: RankJob) -> None:
    environment = json.loads((plain.output / "environment.json").read_text())
    assert environment["packages"]["peft"]
    assert environment["torch"]["threads"] == 1


def test_the_same_seed_gives_the_same_bytes_with_images_decoded_in_workers_too(
    plain: RankJob, make_job: MakeJob
) -> None:
    again = succeed(make_job({**VALIDATED, "workers": 1}))
    assert adapter_bytes(again) == adapter_bytes(plain)


@pytest.mark.parametrize("per_device", [5, 1])
def test_packed_padded_and_one_by_one_trainings_have_the_same_losses(
    plain: RankJob, make_job: MakeJob, per_device: int
) -> None:
    padded = succeed(make_job({"batch": {"packedTokens": None, "perDevice": per_device}}))
    assert losses_of(padded) == pytest.approx(losses_of(plain), abs=1e-5)


def test_two_ranks_of_zero_1_under_torchrun_train_as_one(plain: RankJob, make_job: MakeJob) -> None:
    job = make_job({"ranks": 2, "zero": {"stage": 1}, "batch": {"packedTokens": 160}})
    assert any(len({len(share) for share in step}) > 1 for step in layouts_of(job)), "micro-batches must differ"
    job.work.mkdir()
    write_job(job.work / "job.json", job)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    done = subprocess.run(
        [*command, "-m", "tandem.train.rank", str(job.work / "job.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stderr
    assert losses_of(job) == pytest.approx(losses_of(plain), abs=1e-5)
    assert_close(weights_of(job), weights_of(plain))


def test_two_ranks_without_deepspeed_train_as_one(plain: RankJob, make_job: MakeJob) -> None:
    job = succeed(make_job({"ranks": 2, "batch": {"packedTokens": 160}, **VALIDATED}))
    assert losses_of(job) == pytest.approx(losses_of(plain), abs=1e-5)
    assert_close(weights_of(job), weights_of(plain))
    validation = [
        [line["validation_loss"] for line in metrics_of(one) if "validation_loss" in line] for one in (job, plain)
    ]
    assert validation[0] == pytest.approx(validation[1], abs=1e-5)


def layouts_of(job: RankJob) -> list[list[tuple[Any, ...]]]:
    from tandem.model.loading import load_tokenizer
    from tandem.train.corpus import Tolerance, read_corpus
    from tandem.train.steps import plan_step

    tokenizer = load_tokenizer(job.model_folder)
    corpus = read_corpus(job.meta, tokenizer, rules=describe_rules(job), tolerance=Tolerance())
    return [
        [
            plan_step(step, corpus.lengths, train=job.train, seed=job.seed, rank=rank).micro_batches
            for rank in range(job.train.ranks)
        ]
        for step in range(4)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3)


def test_nothing_but_the_adapter_changes(make_job: MakeJob) -> None:
    in_child(compare_weights, make_job())


def compare_weights(job: RankJob) -> None:
    from tandem.model import loading
    from tandem.train import attempt
    from tandem.train.recipe import run_training

    seen: dict[str, Any] = {}

    def load_and_remember(*args: Any, **kwargs: Any) -> Any:
        base = loading.load_base(*args, **kwargs)
        seen["base"] = base
        seen["before"] = {name: weight.detach().clone() for name, weight in base.named_parameters()}
        return base

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "load_base", load_and_remember)
        run_training(job, Ranks())
    after = {name.replace(".base_layer", ""): weight for name, weight in seen["base"].named_parameters()}
    lora = {name: weight for name, weight in after.items() if "lora_" in name}
    assert after.keys() - lora.keys() == seen["before"].keys()
    assert all((after[name] == weight).all() for name, weight in seen["before"].items())
    assert all(weight.requires_grad == (name in lora) for name, weight in after.items())
    assert all(float(weight.detach().abs().sum()) > 0 for name, weight in lora.items() if "lora_B" in name)
    assert all("language_model" in name for name in lora)


def test_killed_and_resumed_it_ends_with_the_same_bytes(make_job: MakeJob) -> None:
    changes = {"ranks": 2, "zero": {"stage": 1}, "lora": {"dropout": 0.05}, "steps": 6, **VALIDATED}
    undisturbed = succeed(make_job(changes, name="undisturbed"))
    first = make_job(changes, name="first", store=True)
    processes = start_ranks(first)
    saved = Path(first.work.parent / "store" / first.execution / "checkpoints/step-000002/manifest.json")
    wait_for(saved.exists, processes)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert outcomes_of(first) == [None, None]
    second = succeed(make_job(changes, name="second", store=True))
    assert adapter_bytes(second) == adapter_bytes(undisturbed)
    assert losses_of(second) == losses_of(undisturbed)
    record = json.loads((second.output / "train.json").read_text())
    assert record["resumed_from"].startswith("runs/local/r/train/executions/first/checkpoints/step-")
    assert record["validation"] == json.loads((undisturbed.output / "train.json").read_text())["validation"]


def test_told_to_stop_it_saves_and_the_next_attempt_goes_on_to_the_same_bytes(make_job: MakeJob) -> None:
    measured = {"validation": {**VALIDATED["validation"], "everySteps": 1}}
    changes = {"steps": 30, "checkpoints": {"everySteps": 100}, "lora": {"dropout": 0.05}, **measured}
    undisturbed = succeed(make_job(changes, name="undisturbed"))
    stopped = make_job(changes, name="stopped", store=True)
    processes = start_ranks(stopped)
    metrics = stopped.output / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, processes)
    processes[0].terminate()
    processes[0].join()
    outcome = outcomes_of(stopped)[0]
    assert outcome is not None
    assert (outcome.exit_code, outcome.code) == (143, "stopped"), logs_of(stopped)
    assert processes[0].exitcode == 143
    saved = list((stopped.work.parent / "store").glob("**/checkpoints/step-*/manifest.json"))
    assert len(saved) == 1
    resumed = succeed(make_job(changes, name="resumed", store=True))
    assert adapter_bytes(resumed) == adapter_bytes(undisturbed)
    lines = [(job.output / "metrics.jsonl").read_text().splitlines() for job in (stopped, resumed, undisturbed)]
    of_validation = [[json.loads(line)["step"] for line in each if "validation_loss" in line] for each in lines]
    assert len(of_validation[0]) == int(saved[0].parent.name.removeprefix("step-")) - 1  # told to stop, it had no time
    assert of_validation[1] == of_validation[2] == list(range(1, 31))
    records = [json.loads((job.output / "train.json").read_text())["validation"] for job in (resumed, undisturbed)]
    assert records[0] == records[1]


def test_a_training_that_was_complete_is_not_trained_again(make_job: MakeJob) -> None:
    first = succeed(make_job({"steps": 2}, name="first", store=True))
    again = succeed(make_job({"steps": 2}, name="again", store=True))
    assert adapter_bytes(again) == adapter_bytes(first)
    assert losses_of(again) == losses_of(first)


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_samples(
    make_job: MakeJob, tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "lm_head" in name)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcome = train(make_job(model_folder=broken))[0]
    assert outcome is not None
    assert (outcome.exit_code, outcome.code) == (65, "bad-data")
    assert "step 1: the loss is not a finite number" in outcome.message
    assert "train.jsonl:" in outcome.message


def test_weights_that_are_no_numbers_are_not_saved_though_the_loss_was_one(make_job: MakeJob) -> None:
    from tandem.train import adapter, attempt
    from tandem.train.recipe import run_training

    def attach_and_overflow(*args: Any, **kwargs: Any) -> Any:
        model = adapter.attach_adapter(*args, **kwargs)
        adapter.trainable_weights(model)[-1].register_hook(lambda gradient: gradient * float("inf"))
        return model

    job = make_job({"steps": 1}, store=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "attach_adapter", attach_and_overflow)
        with pytest.raises(BadData, match="step 1: the adapter's weights are no finite numbers any more"):
            run_training(job, Ranks())
    assert list((job.work.parent / "store").glob("**/checkpoints/step-*/manifest.json")) == []
    assert not (job.output / "adapter").exists()


@pytest.mark.parametrize(("base", "lora"), [("bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_the_adapter_keeps_its_own_precision_under_zero_1(make_job: MakeJob, base: str, lora: str) -> None:
    job = succeed(make_job({"precision": base, "lora": {"dtype": lora}, "zero": {"stage": 1}, "steps": 2}))
    assert {str(weight.dtype) for weight in weights_of(job).values()} == {f"torch.{lora}"}
    assert len(losses_of(job)) == 2


FOUND = Memory(
    packed_tokens=160,
    gradient_checkpointing=True,
    tried=(
        Trial(tokens=320, checkpointed=False, peak_bytes=None),
        Trial(tokens=160, checkpointed=True, peak_bytes=9),
    ),
)


def find_in_advance() -> None:
    """As if this rank had a GPU, and so much fitted."""
    from tandem.train import trying

    pytest.MonkeyPatch().setattr(trying, "take_as_written", lambda _: FOUND)


def test_a_resumed_training_is_held_to_what_the_first_attempt_found(make_job: MakeJob) -> None:
    as_asked = succeed(make_job(name="as-asked"))
    first = make_job(name="first", store=True)
    for process in start_ranks(first, prepare=find_in_advance):
        process.join()
    assert adapter_bytes(first) != adapter_bytes(as_asked)  # other micro-batches, other roundings
    assert losses_of(first) == pytest.approx(losses_of(as_asked), abs=1e-5)
    (first.work.parent / "store" / first.execution / "checkpoints/step-000004/manifest.json").unlink()
    second = succeed(make_job(name="second", store=True))
    records = [json.loads((job.output / "train.json").read_text()) for job in (first, second)]
    assert records[1]["resumed_from"].endswith("first/checkpoints/step-000002")
    assert [Memory.model_validate_json(json.dumps(record["memory"])) for record in records] == [FOUND, FOUND]
    assert adapter_bytes(second) == adapter_bytes(first)


def test_gradient_checkpointing_and_tensorboard_change_no_figure(plain: RankJob, make_job: MakeJob) -> None:
    job = succeed(make_job({"gradientCheckpointing": True, "tensorboard": True}))
    assert losses_of(job) == pytest.approx(losses_of(plain), abs=1e-6)
    assert list((job.output / "tensorboard").iterdir())


def test_a_bad_sample_ends_every_rank_with_file_and_line(make_job: MakeJob, data: Path, tmp_path: Path) -> None:
    lines = (data / "train.jsonl").read_text().splitlines()
    lines[4] = lines[4].replace("4-0.png", "missing.png")
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    entry = {"root": str(data / "images"), "annotation": "bad.jsonl", "data_augment": False, "repeat_time": 1}
    (tmp_path / "meta.json").write_text(json.dumps({"bad": entry}))
    outcomes = train(make_job({"ranks": 2}, meta=tmp_path / "meta.json"))
    assert [outcome.exit_code for outcome in outcomes if outcome] == [65, 65]
    assert all("bad.jsonl:5" in outcome.message for outcome in outcomes if outcome)


def test_another_number_of_ranks_than_the_run_asks_for_is_refused(make_job: MakeJob) -> None:
    from tandem.errors import BadConfiguration
    from tandem.train.ranks import connect

    with pytest.raises(BadConfiguration, match=r"asks for 2 ranks, but 3 were started"):
        connect(Ranks(world=3, rank=0), expected=2)


def test_what_an_earlier_attempt_left_on_this_node_is_cleared_away(make_job: MakeJob) -> None:
    job = make_job()
    stale = job.output / "checkpoints" / "step-000900"
    stale.mkdir(parents=True)
    log = job.output / "logs" / "train.log"
    log.parent.mkdir()
    log.write_text("written by the process around the ranks\n")
    prepare_folders(job, Ranks())
    assert not stale.exists()
    assert stale.parent.is_dir()
    assert log.exists(), "the log of this attempt is not what an earlier one left"
