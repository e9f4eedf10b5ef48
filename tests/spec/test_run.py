from __future__ import annotations

from typing import Any

import pytest

from tandem.errors import BadConfiguration
from tandem.spec import EvalSpec, LossRule, RunSpec, Subject, TileRule, TrainSpec
from tests.spec.runs import EVALUATION, TRAINING, parse, run_file


def faults(document: dict[str, Any]) -> list[str]:
    with pytest.raises(BadConfiguration) as caught:
        parse(document)
    return [str(fault) for fault in caught.value.faults]


def test_a_small_run_is_accepted_with_the_documented_defaults() -> None:
    spec = parse(run_file()).run.spec
    assert spec.train is not None
    assert (spec.seed, spec.limit, spec.max_attempts, spec.desired) == (0, None, 3, "Active")
    assert (spec.train.tiles.max, spec.train.tiles.rule) == (6, TileRule.PER_SAMPLE)
    assert spec.train.loss is LossRule.GLOBAL_TOKEN_MEAN
    assert spec.evals[0].of is Subject.ADAPTER


@pytest.mark.parametrize("version", ["v1", "tandem.dev/v2"])
def test_another_version_of_the_format_is_refused(version: str) -> None:
    (fault,) = faults(run_file() | {"apiVersion": version})
    assert "apiVersion: should be 'tandem.dev/v1alpha1'" in fault


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a_b", "a" * 31, "a/b", "a\n"])
def test_a_name_that_could_not_name_a_pod_is_refused(name: str) -> None:
    (fault,) = faults(run_file() | {"metadata": {"name": name}})
    assert "metadata.name: is not allowed" in fault
    (fault,) = faults(run_file(evals=[{**EVALUATION, "name": name}]))
    assert "spec.evals[0].name: is not allowed" in fault


def test_stages_take_the_default_profiles_and_a_run_is_kept_unless_the_file_says_otherwise() -> None:
    spec = parse(run_file()).run.spec
    assert (spec.profiles.train, spec.profiles.generate, spec.profiles.endpoint, spec.profiles.score) == (None,) * 4
    assert spec.ttl_seconds_after_finished is None
    spec = parse(run_file(profiles={"train": "train-8gpu"}, ttlSecondsAfterFinished=0)).run.spec
    assert (spec.profiles.train, spec.profiles.score, spec.ttl_seconds_after_finished) == ("train-8gpu", None, 0)


@pytest.mark.parametrize("name", ["", "Train", "../train", "train-", "a" * 64])
def test_a_profile_is_named_as_a_file_of_the_chart_can_be(name: str) -> None:
    (fault,) = faults(run_file(profiles={"train": name}))
    assert "spec.profiles.train: is not allowed" in fault


@pytest.mark.parametrize("seconds", [-1, 2**31, 1.5])
def test_a_time_to_live_is_one_that_kubernetes_takes(seconds: float) -> None:
    (fault,) = faults(run_file(ttlSecondsAfterFinished=seconds))
    assert "spec.ttlSecondsAfterFinished: should be" in fault


def test_a_run_without_anything_to_do_is_refused() -> None:
    (fault,) = faults(run_file(train=None, evals=[]))
    assert "spec: there is nothing to do. Give train, evals or both." in fault


def test_an_adapter_to_evaluate_and_training_exclude_each_other() -> None:
    (fault,) = faults(run_file(model={"source": "base", "adapter": "adapter"}))
    assert "spec.model.adapter: is for Runs without training" in fault


def test_evaluations_of_one_name_are_refused_each_at_its_place() -> None:
    found = faults(run_file(evals=[EVALUATION, EVALUATION, EVALUATION]))
    assert [fault.partition(": ")[2].partition(". Give")[0] for fault in found] == [
        f"spec.evals[{index}].name: heldout is the name of evals[0] too" for index in (1, 2)
    ]


def test_more_evaluations_than_kubernetes_can_compare_are_refused() -> None:
    (fault,) = faults(run_file(evals=[{**EVALUATION, "name": f"e{index}"} for index in range(101)]))
    assert "spec.evals: tuple should have at most 100 items" in fault


def test_a_bare_base_model_must_state_its_tiles() -> None:
    evaluation = {**EVALUATION, "of": "base"}
    (fault,) = faults(run_file(train=None, evals=[evaluation]))
    assert "spec.evals[0].tiles: is missing" in fault
    parse(run_file(train=None, evals=[{**evaluation, "tiles": {"max": 6}}]))
    parse(run_file(evals=[evaluation]))


@pytest.mark.parametrize("subject", ["adapter", "checkpoint-last", "checkpoint-best", "checkpoint-every"])
def test_what_was_never_trained_cannot_be_evaluated(subject: str) -> None:
    (fault,) = faults(run_file(train=None, evals=[{**EVALUATION, "of": subject}]))
    assert f"spec.evals[0].of: {subject} is asked for, and nothing is trained" in fault


def test_an_adapter_that_exists_can_be_evaluated_without_training() -> None:
    parse(run_file(train=None, model={"source": "base", "adapter": "adapter"}))


def test_the_best_checkpoint_needs_a_validation_set() -> None:
    evaluation = {**EVALUATION, "of": "checkpoint-best"}
    (fault,) = faults(run_file(evals=[evaluation]))
    assert "there is no validation" in fault
    parse(run_file(evals=[evaluation], train={**TRAINING, "validation": {"meta": "v.json"}}))


@pytest.mark.parametrize(
    ("given", "what"), [({}, "is missing, and so is steps"), ({"epochs": 1, "steps": 5}, "is given, and so is steps")]
)
def test_training_is_as_long_as_epochs_or_steps_say(given: dict[str, Any], what: str) -> None:
    (fault,) = faults(run_file(train={"meta": "m", "batch": {"globalSize": 8}, **given}))
    assert f"spec.train.epochs: {what}" in fault


# The original's scripts divide: 16 / 4 / 8 = 0 and 64 / 4 / 6 = 2, silently an effective batch of 48.
@pytest.mark.parametrize(("size", "per_device", "ranks"), [(16, 4, 8), (64, 4, 6), (5, 2, 1)])
def test_a_batch_that_does_not_divide_exactly_is_refused(size: int, per_device: int, ranks: int) -> None:
    batch = {"globalSize": size, "perDevice": per_device}
    (fault,) = faults(run_file(train={**TRAINING, "ranks": ranks, "batch": batch}))
    assert (
        f"spec.train.batch.globalSize: {size} is not a multiple of perDevice x ranks ({per_device} x {ranks})" in fault
    )


def test_accumulation_makes_the_global_batch_exact() -> None:
    train = TrainSpec.model_validate({**TRAINING, "ranks": 8, "batch": {"globalSize": 64, "perDevice": 4}})
    assert train.accumulation * train.batch.per_device * train.ranks == 64


def test_packing_needs_no_division_but_room_for_the_longest_sample_and_a_sample_a_rank() -> None:
    packed = {"globalSize": 5, "packedTokens": 8192}
    parse(run_file(train={**TRAINING, "ranks": 2, "batch": packed}))
    found = faults(
        run_file(
            train={**TRAINING, "ranks": 8, "loss": "micro_batch_mean", "batch": {"globalSize": 5, "packedTokens": 4096}}
        )
    )
    assert len(found) == 3
    text = "\n".join(found)
    assert "spec.train.loss: micro_batch_mean needs padded micro-batches" in text
    assert "spec.train.batch.packedTokens: 4096 is less than maxLength (8192)" in text
    assert "spec.train.batch.globalSize: 5 is less than ranks (8)" in text


def test_the_ways_of_packed_micro_batches_are_refused_without_them_and_those_of_any_are_not() -> None:
    padded = {**TRAINING, "batch": {"globalSize": 64}}
    speed = {"labelsOnly": True, "fusedOptimizer": True, "fusedLora": True, "compiled": True, "fusedLoss": False}
    found = faults(run_file(train={**padded, "speed": speed}))
    assert [fault.split(": ")[1:3] for fault in found] == [
        ["spec.train.speed.fusedLora", "is for packed micro-batches only. Set batch.packedTokens, or remove this."],
        ["spec.train.speed.compiled", "is for packed micro-batches only. Set batch.packedTokens, or remove this."],
    ]
    parse(run_file(train={**padded, "speed": {"labelsOnly": False, "fusedOptimizer": False}}))


def test_a_loss_that_makes_logits_only_at_labels_is_refused_where_they_are_wanted_everywhere() -> None:
    packed = {**TRAINING, "batch": {"globalSize": 64, "packedTokens": 8192}}
    parse(run_file(train={**packed, "speed": {"labelsOnly": False}}))
    (fault,) = faults(run_file(train={**packed, "speed": {"labelsOnly": False, "fusedLoss": True}}))
    assert "spec.train.speed.fusedLoss: makes logits only at labels, which labelsOnly turns off" in fault


def test_a_language_model_as_judge_needs_an_address_and_a_name() -> None:
    found = faults(run_file(evals=[{**EVALUATION, "judge": {"kind": "openai"}}]))
    assert [fault.split(": ")[1:3] for fault in found] == [
        ["spec.evals[0].judge.baseUrl", "is missing. kind"],
        ["spec.evals[0].judge.model", "is missing. kind"],
    ]
    judge = {"kind": "openai", "baseUrl": "https://api.example.com", "model": "m", "protocol": "original"}
    parse(run_file(evals=[{**EVALUATION, "judge": judge}]))


def test_settings_that_the_exact_judge_would_ignore_are_refused() -> None:
    judge = {"baseUrl": "https://api.example.com", "model": "m", "protocol": "original"}
    found = "\n".join(faults(run_file(evals=[{**EVALUATION, "judge": judge}])))
    for place in ("judge.baseUrl: is unused", "judge.model: is unused", "judge.protocol: original asks"):
        assert place in found


ENDPOINT = {"baseUrl": "http://vllm:8000/v1", "model": "served"}


def test_an_endpoint_needs_no_tiles_for_it_cuts_images_itself() -> None:
    evaluation = parse(run_file(train=None, evals=[{**EVALUATION, "of": "base", "endpoint": ENDPOINT}])).run.spec.evals[
        0
    ]
    assert evaluation.endpoint is not None
    assert (evaluation.endpoint.temperature, evaluation.endpoint.seed, evaluation.endpoint.system_message) == (
        0,
        0,
        None,
    )
    parse(run_file(evals=[{**EVALUATION, "of": "base", "endpoint": ENDPOINT, "shards": 2}]))
    parse(run_file(train=None, model={"source": "m", "adapter": "a"}, evals=[{**EVALUATION, "endpoint": ENDPOINT}]))


def test_what_only_a_model_in_this_process_can_be_told_is_refused_beside_an_endpoint_all_at_once() -> None:
    own = {"tiles": {"max": 6}, "batchTokens": 100, "precision": "float32", "engine": "plain"}
    found = faults(run_file(evals=[{**EVALUATION, **own, "of": "checkpoint-last", "endpoint": ENDPOINT}]))
    places = [fault.partition("spec.evals[0].")[2].partition(":")[0] for fault in found]
    assert places == ["tiles", "batchTokens", "precision", "engine", "of"]
    assert "start the server as you want it" in found[0]
    assert "tandem merge" in found[4]


def test_an_endpoint_cannot_serve_what_its_own_run_is_yet_to_train() -> None:
    (fault,) = faults(run_file(evals=[{**EVALUATION, "endpoint": ENDPOINT}]))
    assert "spec.evals[0].of: is what this Run trains" in fault
    (fault,) = faults(run_file(train=None, evals=[{**EVALUATION, "endpoint": ENDPOINT}]))
    assert "Give of: base, or the served adapter as model.adapter." in fault


@pytest.mark.parametrize("template", ["{answer}", "  {answer}", "The answer is", "answer}"])
def test_an_answer_template_needs_a_marker_and_a_place_for_the_answer(template: str) -> None:
    (fault,) = faults(run_file(train={**TRAINING, "answerTemplate": template}))
    assert "spec.train.answerTemplate: is not allowed" in fault


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"seed": -1}, "spec.seed"),
        ({"seed": 2**32}, "spec.seed"),
        ({"limit": 0}, "spec.limit"),
        ({"maxAttempts": 0}, "spec.maxAttempts"),
        ({"desired": "Paused"}, "spec.desired"),
        ({"model": {"source": ""}}, "spec.model.source"),
        ({"model": {"source": "x", "digest": "sha256:12"}}, "spec.model.digest"),
        ({"train": {**TRAINING, "lora": {"dropout": 1}}}, "spec.train.lora.dropout"),
        ({"train": {**TRAINING, "lora": {"targets": []}}}, "spec.train.lora.targets"),
        ({"train": {**TRAINING, "optimizer": {"betas": [0.9, 1]}}}, "spec.train.optimizer.betas[1]"),
        ({"train": {**TRAINING, "optimizer": {"betas": [0.9]}}}, "spec.train.optimizer.betas"),
        ({"train": {**TRAINING, "zero": {"stage": 2}}}, "spec.train.zero.stage"),
        ({"train": {**TRAINING, "tiles": {"max": 0}}}, "spec.train.tiles.max"),
        ({"train": {**TRAINING, "precision": "float16"}}, "spec.train.precision"),
        ({"evals": [{**EVALUATION, "shards": 0}]}, "spec.evals[0].shards"),
        ({"evals": [{**EVALUATION, "data": ""}]}, "spec.evals[0].data"),
        ({"evals": [{**EVALUATION, "endpoint": {**ENDPOINT, "model": ""}}]}, "spec.evals[0].endpoint.model"),
        ({"evals": [{**EVALUATION, "endpoint": {**ENDPOINT, "baseUrl": "x"}}]}, "spec.evals[0].endpoint.baseUrl"),
    ],
)
def test_a_value_out_of_range_is_refused_at_its_place(spec: dict[str, Any], place: str) -> None:
    assert any(f": {place}" in fault for fault in faults(run_file(**spec)))


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"limit": "50"}, "should be a whole number (given: '50')"),
        ({"seed": True}, "should be a whole number (given: true)"),
        ({"limit": 1.5}, "should be a whole number (given: 1.5)"),
        ({"model": {"source": 5}}, "should be a text (given: 5)"),
        ({"model": {"source": "x", "revision": 1234567}}, "should be a text (given: 1234567)"),
        ({"train": {**TRAINING, "tensorboard": "yes"}}, "should be true or false (given: 'yes')"),
        ({"train": {**TRAINING, "epochs": "1"}}, "should be a number (given: '1')"),
    ],
)
def test_types_are_as_strict_as_in_kubernetes(spec: dict[str, Any], what: str) -> None:
    (fault,) = faults(run_file(**spec))
    assert what in fault


def test_a_whole_number_may_be_written_as_a_fraction_as_in_json() -> None:
    assert parse(run_file(limit=50.0)).run.spec.limit == 50


def test_models_are_frozen() -> None:
    evaluation = EvalSpec.model_validate(EVALUATION)
    with pytest.raises(ValueError, match="frozen"):
        evaluation.shards = 2


def test_a_validated_spec_survives_its_own_json() -> None:
    served = {**EVALUATION, "name": "served", "of": "base", "endpoint": ENDPOINT}
    spec = parse(run_file(evals=[EVALUATION, served])).run.spec
    assert RunSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec
