"""One broken input each: the check names its place and what to do; a sound Run has no finding."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tandem.check import Finding, Report, Severity, raise_if_faults
from tandem.errors import BadConfiguration, BadData
from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_endpoint import FakeEndpointServer
from tandem.model.card import AdapterCard, CardBase, CardTiles, write_card
from tests.check.conftest import ENDPOINT, JUDGE, Trial, draw, question, sample

CHIRON = Path(__file__).parents[3] / "shared/data/chiron-eval"


def only(report: Report, code: str) -> Finding:
    """The report's single finding, which has this code, and is of any use to its reader."""
    assert [finding.code for finding in report.findings] == [code], report.findings
    finding = report.findings[0]
    assert finding.fault.where
    assert finding.fault.what
    assert finding.fault.remedy
    return finding


def test_a_sound_run_has_no_finding_and_states_its_figures(trial: Trial) -> None:
    report = trial.check(store=str(trial.folder / "store"))
    assert report.findings == ()
    facts = report.facts
    assert facts["images"] == {"files": 6, "unusable": 0}
    assert facts["model"]["tokens_per_tile"] == 4
    assert facts["model"]["digest"].startswith("sha256:")
    # 60 x 40 px: with two tiles of 56 px the 1:1 grid is nearest to 3:2 only if 2:1 is not: |1.5 - 2| = |1.5 - 1|,
    # a tie, and 2400 px are more than half of no grid of two, so one tile an image.
    assert facts["train"]["tiles"] == 4
    assert facts["train"]["tokens"]["image"] == 16
    assert (facts["train"]["samples"], facts["train"]["steps"], facts["train"]["epochs"]) == (4, 6, 3.0)
    assert facts["evals"]["held-out"]["samples"] == 2
    assert facts["evals"]["held-out"]["closed"] == 2
    json.dumps(report.to_json())


def test_a_missing_model_is_named(trial: Trial) -> None:
    trial.spec["model"]["source"] = "./nowhere"
    fault = only(trial.check(), "model-missing").fault
    assert fault.where == "spec.model.source: ./nowhere"
    assert "hub" not in fault.remedy


def test_a_hub_model_without_revision_is_told_to_name_its_commit(trial: Trial) -> None:
    trial.spec["model"]["source"] = "OpenGVLab/InternVL3-2B-hf"
    assert "model.revision" in only(trial.check(), "model-missing").fault.remedy


def test_a_model_in_the_remote_code_format_is_to_be_converted(trial: Trial) -> None:
    config = trial.own_model() / "config.json"
    config.write_text(json.dumps({"model_type": "internvl_chat", "auto_map": {"AutoModel": "modeling.Chat"}}))
    assert "tandem convert" in only(trial.check(), "model-unusable").fault.remedy


def test_weights_that_are_not_safetensors_are_refused(trial: Trial) -> None:
    weights = trial.own_model() / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "pytorch_model.bin" in only(trial.check(), "model-unusable").fault.what


def test_truncated_weights_are_refused(trial: Trial) -> None:
    weights = trial.own_model() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in only(trial.check(), "model-unusable").fault.where


def test_a_tokenizer_that_cannot_be_read_is_named(trial: Trial) -> None:
    (trial.own_model() / "tokenizer.json").write_text("{")
    only(trial.check(), "tokenizer-unusable")


def test_another_digest_than_the_expected_one_is_a_fault_and_the_printed_one_is_accepted(trial: Trial) -> None:
    trial.spec["model"]["digest"] = "sha256:" + "0" * 64
    report = trial.check()
    found = report.facts["model"]["digest"]
    assert found in only(report, "model-digest").fault.what
    trial.spec["model"]["digest"] = found
    assert trial.check().findings == ()


def test_a_missing_meta_file_is_named(trial: Trial) -> None:
    trial.spec["train"]["meta"] = "other.json"
    assert only(trial.check(), "meta-missing").fault.where == "spec.train.meta: other.json"


def test_a_missing_annotation_is_named(trial: Trial) -> None:
    meta = trial.folder / "meta.json"
    meta.write_text(meta.read_text().replace("train.jsonl", "gone.jsonl"))
    assert "gone.jsonl" in only(trial.check(), "meta-unusable").fault.what


def test_a_line_that_is_no_json_is_named_with_its_number(trial: Trial) -> None:
    trial.check()
    broken = trial.folder / "broken.jsonl"
    broken.write_text((trial.folder / "train.jsonl").read_text() + '{"id": 5, \n')
    meta = trial.folder / "meta.json"
    meta.write_text(meta.read_text().replace("train.jsonl", "broken.jsonl"))
    assert only(trial.check(), "sample-unusable").fault.where == f"{broken}:5"


def test_placeholders_that_do_not_fit_the_images_are_a_fault_in_training(trial: Trial) -> None:
    trial.training.append(sample(9, ["train-0.jpeg", "train-1.jpeg"]))
    trial.training[-1]["conversations"][0]["value"] = "<image> Which is it?"
    fault = only(trial.check(), "sample-unusable").fault
    assert fault.where.endswith("train.jsonl:5")
    assert "<image>" in fault.what


def test_placeholders_that_do_not_fit_the_images_are_a_fault_in_evaluation(trial: Trial) -> None:
    trial.held_out[1]["question"] = "<image> <image> Is it round?"
    assert only(trial.check(), "placeholders").fault.where.endswith("eval.json id q1")


def test_a_missing_image_is_named_with_the_line_that_shows_it(trial: Trial) -> None:
    (trial.folder / "images/train-2.jpeg").unlink()
    fault = only(trial.check(), "image-missing").fault
    assert "train.jsonl:3" in fault.where
    assert "train-2.jpeg" in fault.where


@pytest.mark.parametrize("name", ["train-1.jpeg", "held-1.png"])
def test_a_truncated_image_is_a_fault(trial: Trial, name: str) -> None:
    path = trial.folder / "images" / name
    draw(path, 50, size=(400, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    fault = only(trial.check(), "image-unreadable").fault
    assert name in fault.where
    assert "truncated" in fault.what


def test_a_decompression_bomb_is_refused_by_its_header(trial: Trial) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (trial.folder / "images/held-0.png").write_bytes(body)
    assert "pixels" in only(trial.check(), "image-unreadable").fault.what


def test_a_text_under_an_images_name_is_a_fault(trial: Trial) -> None:
    (trial.folder / "images/held-0.png").write_text("<html>404</html>")
    only(trial.check(), "image-unreadable")


def test_an_image_that_many_samples_show_is_reported_once(trial: Trial) -> None:
    trial.training += [sample(10 + number, "train-0.jpeg") for number in range(5)]
    (trial.folder / "images/train-0.jpeg").unlink()
    only(trial.check(), "image-missing")


def test_bad_samples_are_warnings_while_they_may_be_left_out(trial: Trial) -> None:
    (trial.folder / "images/train-0.jpeg").unlink()
    trial.training.append(sample(8))
    trial.spec["train"]["dropBad"] = 1
    assert only(trial.check(), "image-missing").severity is Severity.WARNING
    (trial.folder / "images/train-1.jpeg").unlink()
    assert {finding.severity for finding in trial.check().findings} >= {Severity.FAULT}


def test_an_answer_without_marker_is_a_fault_where_the_run_evaluates_what_it_trains(trial: Trial) -> None:
    trial.training[1]["conversations"][1]["value"] = "It is round: yes."
    finding = only(trial.check(), "answer-without-marker")
    assert finding.fault.where.endswith("train.jsonl:2")
    assert finding.severity is Severity.FAULT
    trial.spec["evals"] = []
    assert only(trial.check(), "answer-without-marker").severity is Severity.WARNING


def test_a_marker_with_nothing_behind_it_is_no_answer(trial: Trial) -> None:
    trial.training[0]["conversations"][1]["value"] = "Round.\n### The final answer is: "
    assert "nothing" in only(trial.check(), "answer-without-marker").fault.what


def test_the_run_s_own_answer_template_decides_what_the_marker_is(trial: Trial) -> None:
    trial.spec["train"]["answerTemplate"] = "Answer: {answer}"
    assert {finding.code for finding in trial.check().findings} == {"answer-without-marker"}
    for one in trial.training:
        one["conversations"][1]["value"] = "Round.\nAnswer: Yes"
    assert trial.check().findings == ()


def test_a_duplicate_id_in_training_is_a_fault_that_names_both_lines(trial: Trial) -> None:
    trial.training[3]["id"] = 0
    fault = only(trial.check(), "duplicate-id").fault
    assert fault.where.endswith("train.jsonl:4")
    assert "train.jsonl:1" in fault.what


def test_one_id_in_two_datasets_is_a_warning(trial: Trial) -> None:
    (trial.folder / "more.jsonl").write_text(json.dumps(sample(0)) + "\n")
    meta = json.loads((trial.folder / "meta.json").read_text())
    meta["more"] = meta["trial"] | {"annotation": "more.jsonl"}
    (trial.folder / "meta.json").write_text(json.dumps(meta))
    assert only(trial.check(), "duplicate-id").severity is Severity.WARNING


def test_a_repeated_dataset_has_no_duplicate_ids(trial: Trial) -> None:
    meta = trial.folder / "meta.json"
    meta.write_text(meta.read_text().replace('"repeat_time": 1', '"repeat_time": 3'))
    report = trial.check()
    assert report.findings == ()
    assert report.facts["train"]["samples"] == 12


def test_a_duplicate_id_in_an_evaluation_is_a_fault_and_does_not_hide_a_missing_image(trial: Trial) -> None:
    trial.held_out.append(question(0, "held-0.png"))
    (trial.folder / "images/held-1.png").unlink()
    codes = {finding.code: finding.fault for finding in trial.check().findings}
    assert set(codes) == {"evaluation-unusable", "image-missing"}
    assert "q0" in codes["evaluation-unusable"].what


def test_a_missing_evaluation_file_and_image_folder_are_named(trial: Trial) -> None:
    trial.spec["evals"][0]["images"] = "gone"
    trial.spec["evals"].append({"name": "second", "data": "gone.json"})
    report = trial.check()
    assert [finding.code for finding in report.findings] == ["image-folder-missing", "evaluation-missing"]


def test_the_same_image_file_in_training_and_evaluation_is_a_fault(trial: Trial) -> None:
    trial.held_out[0]["img_name"] = ["train-3.jpeg"]
    fault = only(trial.check(), "image-shared").fault
    assert "id q0" in fault.where
    assert "train.jsonl:4" in fault.what


def test_the_same_bytes_under_another_name_are_the_same_image(trial: Trial) -> None:
    (trial.folder / "images/copy.png").write_bytes((trial.folder / "images/train-3.jpeg").read_bytes())
    trial.held_out[0]["img_name"] = ["copy.png"]
    only(trial.check(), "image-shared")


def test_a_case_in_training_and_evaluation_is_a_fault(trial: Trial) -> None:
    trial.held_out[1]["case_id"] = "case-2"
    fault = only(trial.check(), "case-shared").fault
    assert "case-2" in fault.where
    assert "train.jsonl:3" in fault.what


def test_validation_counts_as_training_because_it_chooses_the_checkpoint(trial: Trial) -> None:
    (trial.folder / "validation.jsonl").write_text(json.dumps(sample(1, "held-0.png")) + "\n")
    meta = (trial.folder / "meta.json").read_text().replace("train.jsonl", "validation.jsonl")
    (trial.folder / "validation.meta.json").write_text(meta)
    trial.spec["train"]["validation"] = {"meta": "validation.meta.json"}
    assert "validation" in only(trial.check(), "image-shared").fault.what


def test_what_only_the_base_model_is_asked_may_be_shared_with_a_warning(trial: Trial) -> None:
    trial.held_out[0]["img_name"] = ["train-3.jpeg"]
    trial.spec["evals"][0]["of"] = "base"
    assert only(trial.check(), "image-shared").severity is Severity.WARNING


def test_the_original_s_tile_budgets_differ_which_is_a_warning_and_strictly_a_fault(trial: Trial) -> None:
    trial.spec["evals"][0]["tiles"] = {"max": 12, "rule": "perImage"}
    report = trial.check()
    finding = only(report, "tiles-differ")
    assert "2 tiles a sample" in finding.fault.what
    assert "12 tiles an image" in finding.fault.what
    raise_if_faults(report)
    with pytest.raises(BadConfiguration):
        raise_if_faults(report.strictly())


def test_another_marker_in_evaluation_than_in_training_is_a_warning(trial: Trial) -> None:
    trial.spec["evals"][0]["answerTemplate"] = "Answer: {answer}"
    assert only(trial.check(), "marker-differs").severity is Severity.WARNING


def test_fewer_samples_than_a_global_batch_are_a_warning_for_a_small_first_run_has_them(trial: Trial) -> None:
    trial.spec["train"]["batch"]["globalSize"] = 8
    finding = only(trial.check(), "fewer-samples-than-batch")
    assert "4 usable samples" in finding.fault.what
    assert finding.severity is Severity.WARNING


def test_steps_are_those_that_training_will_make(trial: Trial) -> None:
    del trial.spec["train"]["steps"]
    trial.spec["train"] |= {"epochs": 2.5}
    assert trial.check().facts["train"]["steps"] == 5
    trial.training.append(sample(4, "train-0.jpeg"))
    assert trial.check().facts["train"]["steps"] == 7  # 12.5 samples in batches of 2


def test_a_prompt_that_leaves_no_room_for_new_tokens_is_a_fault(trial: Trial) -> None:
    trial.spec["evals"][0]["maxNewTokens"] = 10_000_000
    report = trial.check()
    assert {finding.code for finding in report.findings} == {"prompt-too-long"}
    assert len(report.findings) == 2


def test_a_bertscore_model_that_is_not_there_is_named(trial: Trial) -> None:
    trial.spec["evals"][0]["bertScore"] = {"model": "no-such-encoder"}
    assert only(trial.check(), "encoder-missing").fault.where.startswith("spec.evals[held-out].bertScore.model")


def test_a_sample_over_the_length_is_a_fault_until_it_may_be_dropped(trial: Trial) -> None:
    trial.training.append(sample(7, "train-0.jpeg"))
    trial.training[-1]["conversations"][0]["value"] = "<image>\n" + "Is it round? " * 100
    finding = only(trial.check(), "sample-too-long")
    assert finding.fault.where.endswith("train.jsonl:5")
    trial.spec["train"]["dropTooLong"] = 1
    report = trial.check()
    assert only(report, "sample-too-long").severity is Severity.WARNING
    assert report.facts["train"]["too_long"] == 1
    assert report.facts["train"]["samples"] == 4


def test_a_judge_without_key_is_a_fault_and_the_key_is_never_shown(trial: Trial) -> None:
    trial.spec["evals"][0]["judge"] = JUDGE
    assert "TANDEM_JUDGE_API_KEY" in only(trial.check(), "judge-key-missing").fault.what
    trial.environment = {"TANDEM_JUDGE_API_KEY": "very-secret"}
    report = trial.check()
    assert report.findings == ()
    assert "very-secret" not in json.dumps(report.to_json())


SERVED = {"name": "served", "data": "eval.json", "images": "images", "of": "base", "endpoint": ENDPOINT}


def asking(trial: Trial, *evals: dict[str, Any], **endpoint: Any) -> Trial:
    """A trial that evaluates what a server says, and nothing else."""
    del trial.spec["train"]
    trial.spec["evals"] = [*evals, SERVED | {"endpoint": ENDPOINT | endpoint}]
    trial.environment = {"TANDEM_ENDPOINT_API_KEY": "very-secret"}
    return trial


def list_names(*names: str) -> FakeReply:
    return FakeReply(body=json.dumps({"data": [{"id": name} for name in names]}).encode())


def test_an_endpoint_without_key_is_a_fault(trial: Trial) -> None:
    asking(trial).environment = {}
    fault = only(trial.check(), "endpoint-unusable").fault
    assert fault.where == "spec.evals[served].endpoint.keyEnv"
    assert "TANDEM_ENDPOINT_API_KEY is not set" in fault.what


def test_an_endpoint_that_lists_the_model_is_fine_and_is_asked_once(trial: Trial) -> None:
    with FakeEndpointServer(models=list_names("other", "served")) as server:
        twice = SERVED | {"name": "again", "endpoint": ENDPOINT | {"baseUrl": server.base_url}}
        report = asking(trial, twice, baseUrl=server.base_url).check()
    assert report.findings == ()
    assert report.facts["evals"]["served"] == {
        "samples": 2, "images": 2, "open": 0, "closed": 2, "endpoint": server.base_url,
    }  # fmt: skip
    assert server.keys == ["very-secret"]
    assert server.requests == []


def test_an_endpoint_that_does_not_answer_yet_is_a_warning(trial: Trial) -> None:
    finding = only(asking(trial).check(), "endpoint-away")
    assert finding.severity is Severity.WARNING
    assert "127.0.0.1:9" in finding.fault.what


@pytest.mark.parametrize("status", [401, 403])
def test_an_endpoint_that_refuses_the_key_is_a_fault_and_the_key_is_never_shown(trial: Trial, status: int) -> None:
    with FakeEndpointServer(models=FakeReply(status=status, body=b"very-secret is no key")) as server:
        report = asking(trial, baseUrl=server.base_url).check()
    finding = only(report, "endpoint-key-refused")
    assert finding.severity is Severity.FAULT
    assert f"HTTP {status}" in finding.fault.what
    assert "very-secret" not in json.dumps(report.to_json())


def test_an_endpoint_that_lists_other_models_is_a_warning_that_names_some(trial: Trial) -> None:
    with FakeEndpointServer(models=list_names(*(f"model-{number}" for number in range(7)))) as server:
        finding = only(asking(trial, baseUrl=server.base_url).check(), "endpoint-model-unlisted")
    assert finding.severity is Severity.WARNING
    assert finding.fault.what.endswith("model-4 and 2 more")


@pytest.mark.parametrize("models", [FakeReply(status=404), FakeReply(status=500), FakeReply(body=b"<html>"), None])
def test_an_endpoint_that_has_no_list_is_no_finding(trial: Trial, models: FakeReply | None) -> None:
    with FakeEndpointServer(models=models) as server:
        assert asking(trial, baseUrl=server.base_url).check().findings == ()


def test_a_store_that_is_a_file_or_no_address_is_a_fault(trial: Trial) -> None:
    (trial.folder / "store").write_text("not a folder")
    only(trial.check(store=str(trial.folder / "store")), "store-unusable")
    only(trial.check(store=""), "store-unusable")


def test_more_ranks_than_gpus_are_a_fault_and_none_at_all_is_none(trial: Trial) -> None:
    trial.spec["train"]["ranks"] = 2
    only(trial.check(gpus=1), "ranks-exceed-gpus")
    assert trial.check(gpus=0).findings == ()


def test_too_little_gpu_memory_is_a_warning_when_it_is_close_and_a_fault_when_it_is_hopeless(trial: Trial) -> None:
    trial.spec["evals"] = []
    trial.spec["train"]["gradientCheckpointing"] = False
    needed = trial.check().facts["train"]["memory"]["total"]
    assert trial.check(gpu_memory=2 * needed).findings == ()
    assert only(trial.check(gpu_memory=needed), "gpu-memory").severity is Severity.WARNING
    assert only(trial.check(gpu_memory=needed // 2), "gpu-memory").severity is Severity.FAULT


def test_too_little_gpu_memory_for_a_way_that_was_never_measured_is_no_more_than_a_warning(trial: Trial) -> None:
    trial.spec["evals"] = []
    trial.spec["train"] |= {"precision": "float32", "maxLength": 2048, "gradientCheckpointing": False}
    trial.spec["train"]["batch"] = {"globalSize": 2, "packedTokens": 2048, "fitMemory": False}
    needed = trial.check().facts["train"]["memory"]["total"]
    finding = only(trial.check(gpu_memory=needed // 2), "gpu-memory")
    assert finding.severity is Severity.WARNING
    assert "never measured" in finding.fault.what


def test_a_limit_checks_what_the_limited_run_would_read(trial: Trial) -> None:
    (trial.folder / "images/train-3.jpeg").unlink()
    trial.spec["limit"] = 3
    report = trial.check()
    assert report.findings == ()
    assert report.facts["train"]["samples"] == 3


def adapter(trial: Trial, digest: str) -> Path:
    folder = trial.folder / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    card = AdapterCard(
        tiles=CardTiles(max=6, rule="perSample", thumbnail=True),
        template="internvl2_5",
        system_message="",
        answer_template="### The final answer is: {answer}",
        base=CardBase(source="model", digest=digest),
        seed=0,
    )
    write_card(folder, card)
    return folder


def test_an_adapter_of_another_base_or_evaluated_with_other_tiles_is_reported(trial: Trial) -> None:
    del trial.spec["train"]
    trial.spec["model"]["adapter"] = "adapter"
    only(trial.check(), "adapter-missing")
    folder = adapter(trial, "sha256:" + "1" * 64)
    report = trial.check()
    assert "1" * 64 in only(report, "adapter-base").fault.what
    adapter(trial, report.facts["model"]["digest"])
    assert trial.check().findings == ()
    trial.spec["evals"][0]["tiles"] = {"max": 12, "rule": "perImage"}
    only(trial.check(), "tiles-differ")
    del trial.spec["evals"][0]["tiles"]
    (folder / "tandem.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    assert [finding.code for finding in trial.check().findings] == ["adapter-unusable", "adapter-unusable"]


def test_all_faults_come_together_in_one_report_and_one_error(trial: Trial) -> None:
    trial.spec["model"]["digest"] = "sha256:" + "0" * 64
    (trial.folder / "images/train-0.jpeg").unlink()
    trial.training[1]["conversations"][1]["value"] = "Yes."
    trial.training[2]["id"] = 1
    trial.training.append(sample(7, "train-1.jpeg", answer="Is it round? " * 100))
    trial.training.append(sample(8, ["train-1.jpeg", "train-2.jpeg"]))
    trial.training[-1]["conversations"][0]["value"] = "Which?"
    trial.held_out[0]["img_name"] = ["train-3.jpeg"]
    trial.held_out[1]["case_id"] = "case-2"
    trial.held_out.append(question(2))
    trial.held_out[2]["question"] = "<image> Is it round?"
    trial.spec["train"]["ranks"] = 4
    trial.spec["train"]["batch"]["globalSize"] = 64
    trial.spec["evals"][0] |= {"tiles": {"max": 3}, "judge": JUDGE}
    (trial.folder / "store").write_text("not a folder")
    report = trial.check(gpus=1, gpu_memory=1000, store=str(trial.folder / "store"))
    assert {finding.code for finding in report.findings} == {
        "model-digest", "sample-unusable", "image-missing", "answer-without-marker", "duplicate-id",
        "sample-too-long", "fewer-samples-than-batch", "placeholders", "tiles-differ", "gpu-memory", "image-shared",
        "case-shared", "judge-key-missing", "ranks-exceed-gpus", "store-unusable",
    }  # fmt: skip
    with pytest.raises(BadConfiguration) as raised:
        raise_if_faults(report)
    assert len(raised.value.faults) == len(report.of_severity(Severity.FAULT))


def test_faults_of_data_alone_end_with_the_exit_code_of_bad_data(trial: Trial) -> None:
    (trial.folder / "images/train-2.jpeg").unlink()
    with pytest.raises(BadData):
        raise_if_faults(trial.check())


def test_the_check_never_imports_torch(trial: Trial) -> None:
    trial.check()
    code = """
import sys
from pathlib import Path
from tandem.check import check_run
from tandem.inputs import Resolver
from tandem.spec import load_run
folder = Path(sys.argv[1])
report = check_run(load_run(folder / "run.yaml"), sources=Resolver(folder=folder, cache=folder), store_url=None,
                   environment={}, gpu_memory=10**12, gpus=8, cpu_count=1)
assert report.findings == () and "tokens" in report.facts["train"], report
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "peft", "deepspeed"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(trial.folder)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def chiron_run(trial: Trial, evaluation: dict[str, Any]) -> Report:
    config = trial.own_model() / "config.json"
    values = json.loads(config.read_text())
    values["vision_config"]["image_size"] = [448, 448]
    config.write_text(json.dumps(values))
    trial.spec["train"] |= {"tiles": {"max": 6}, "maxLength": 8192}
    trial.spec["evals"] = [{"name": "chiron", "data": str(CHIRON / "eval_data.json"), **evaluation}]
    return trial.check()


if CHIRON.is_dir():  # the original's samples: not ours to give on, used where they lie beside the repository

    def test_the_original_s_samples_are_sound_with_45_tiles_as_trained_and_159_as_it_evaluates(
        trial: Trial,
    ) -> None:
        """45 and 159: counted with manglu097/Chiron-o1 fde348e's own two budgets (6 // images, and 12 an image)."""
        report = chiron_run(trial, {"tiles": {"max": 6}})
        assert report.findings == ()
        assert report.facts["evals"]["chiron"]["tiles"] == 45
        assert report.facts["evals"]["chiron"]["images"] == 31
        report = chiron_run(trial, {"tiles": {"max": 12, "rule": "perImage"}})
        assert "159 tiles where training's budget gives 45" in only(report, "tiles-differ").fault.what


def test_an_animated_or_grey_image_is_sound(trial: Trial) -> None:
    Image.new("L", (30, 30)).save(trial.folder / "images/held-0.png")
    assert trial.check().findings == ()


def test_an_image_of_more_shades_than_the_model_sees_is_a_warning(trial: Trial) -> None:
    for name in ("train-1.jpeg", "held-0.png"):
        Image.new("I;16", (60, 40), 4_000).save(trial.folder / "images" / name, format="PNG")
    trial.held_out[1]["img_name"] = trial.held_out[0]["img_name"]
    assert [finding.code for finding in trial.check().findings] == ["image-clipped", "image-clipped", "image-shared"]
