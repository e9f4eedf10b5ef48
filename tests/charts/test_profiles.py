from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from tandem.control.profiles import Use, find_profile, read_profiles
from tandem.record.run import RunRecord
from tandem.stage.train import GRACE_SECONDS
from tests.charts.helm import CI, EVERYTHING, MINIMAL, RELEASE, Refused, Release, merged, release_of, render, templates
from tests.charts.pairs import volume_of
from tests.spec.runs import parse, run_file


@pytest.fixture(scope="module")
def everything() -> Release:
    return release_of(EVERYTHING)


def test_profiles_for_every_stage_are_offered_and_small_ones_on_demand(everything: Release) -> None:
    usual = {"train-8gpu", "train-2gpu", "train-multipod", "generate", "generate-endpoint", "score"}
    assert set(render(MINIMAL).profiles) == usual
    assert set(everything.profiles) == usual | {f"{stage}-cpu-demo" for stage in ("train", "generate", "score")}


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_each_stage_has_exactly_one_default_profile(values: Path) -> None:
    stages = [profile["stage"] for profile in release_of(values).profiles.values() if profile["default"]]
    assert sorted(stages) == ["endpoint", "generate", "score", "train"]


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_controller_reads_the_profiles_as_the_chart_writes_them(values: Path, tmp_path: Path) -> None:
    release = release_of(values)
    for name, text in release.one("ConfigMap", f"{RELEASE}-profiles")["data"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_profiles(tmp_path)
    assert {name: profile.manifest for name, profile in found.items()} == {name: release.job(name) for name in found}
    assert set(found) == set(release.profiles)
    spec = parse(run_file()).run.spec
    assert {find_profile(found, spec, use).name for use in get_args(Use)} == {
        name for name, profile in release.profiles.items() if profile["default"]
    }


def test_a_profile_says_what_it_takes(everything: Release) -> None:
    said = {name: (it["stage"], it.get("ranks"), it["gpus"]) for name, it in everything.profiles.items()}
    assert said == {
        "train-8gpu": ("train", 8, 8),
        "train-2gpu": ("train", 2, 2),
        "train-multipod": ("train", 16, 16),
        "train-cpu-demo": ("train", 2, 0),
        "generate": ("generate", None, 1),
        "generate-cpu-demo": ("generate", None, 0),
        "generate-endpoint": ("endpoint", None, 0),
        "score": ("score", None, 0),
        "score-cpu-demo": ("score", None, 0),
    }
    assert {it["speaks"] for it in everything.profiles.values()} == {RunRecord.model_fields["schema_"].default}


def test_training_is_a_pytorchjob_that_neither_restarts_nor_keeps_survivors(everything: Release) -> None:
    trainings = {name: everything.job(name) for name, it in everything.profiles.items() if it["stage"] == "train"}
    for name, job in trainings.items():
        assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
        replicas = job["spec"]["pytorchReplicaSpecs"]
        assert replicas["Master"]["replicas"] == 1
        assert {replica["restartPolicy"] for replica in replicas.values()} == {"Never"}
        policy = job["spec"]["runPolicy"]
        assert (policy["backoffLimit"], policy["cleanPodPolicy"]) == (0, "Running")
        pods = sum(replica["replicas"] for replica in replicas.values())
        assert pods * int(job["spec"]["nprocPerNode"]) == everything.profiles[name]["ranks"]
        assert ("Worker" in replicas) == (pods > 1)
        assert [template["spec"]["containers"][0]["name"] for template in templates(job)] == ["pytorch"] * len(replicas)
        assert templates(job)[0] == templates(job)[-1]


def test_generating_is_an_indexed_job_whose_shards_fail_alone(everything: Release) -> None:
    for name in ("generate", "generate-endpoint"):
        spec = everything.job(name)["spec"]
        assert (spec["completionMode"], spec["backoffLimitPerIndex"], spec["podReplacementPolicy"]) == (
            "Indexed",
            0,
            "Failed",
        )
        assert "backoffLimit" not in spec, "it would end the other shards"
    spec = everything.job("score")["spec"]
    assert (spec["backoffLimit"], spec["completions"], "completionMode" in spec) == (0, 1, False)


def process_of(profile: dict[str, Any]) -> str:
    """The stage that its pods run: a server's texts come of the stage generate, too."""
    return "generate" if profile["stage"] == "endpoint" else str(profile["stage"])


def test_a_job_has_no_name_yet_and_nothing_by_which_argo_cd_would_prune_it(everything: Release) -> None:
    for name in everything.profiles:
        job = everything.job(name)
        assert "name" not in job["metadata"]
        for metadata in (job["metadata"], *(template["metadata"] for template in templates(job))):
            assert "app.kubernetes.io/instance" not in metadata["labels"]
            assert metadata["labels"]["app.kubernetes.io/part-of"] == "tandem"
            assert metadata["labels"]["app.kubernetes.io/component"] == everything.profiles[name]["stage"]
            assert metadata["labels"]["tandem.dev/stage"] == process_of(everything.profiles[name])
            assert metadata["labels"]["tandem.dev/profile"] == name


def test_the_process_of_a_stage_learns_its_pod_and_finds_what_it_may_write(everything: Release) -> None:
    for name, profile in everything.profiles.items():
        container = everything.container(name)
        fields = {
            entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"]
            for entry in container["env"]
            if "fieldRef" in entry.get("valueFrom", {})
        }
        assert fields == {"POD_UID": "metadata.uid", "POD_NAME": "metadata.name", "NODE_NAME": "spec.nodeName"}
        assert container["args"] == ["stage", process_of(profile)]
        assert volume_of(everything.pod(name), "tmp")["at"] == "/tmp"
        assert not {"RUN_URI", "RUN_SHA256", "STAGE", "ATTEMPT"} & {entry["name"] for entry in container["env"]}


def test_training_has_longer_to_stop_than_its_ranks_have_to_save() -> None:
    release = render(MINIMAL)
    for name, profile in release.profiles.items():
        if profile["stage"] == "train":
            assert release.pod(name)["terminationGracePeriodSeconds"] >= GRACE_SECONDS + 120
    short = {"profiles": {"train-2gpu": {"gracePeriodSeconds": GRACE_SECONDS + 29}}}
    with pytest.raises(Refused, match=f"the ranks have {GRACE_SECONDS} seconds"):
        render(merged(MINIMAL, short))
    render(merged(MINIMAL, {"profiles": {"train-2gpu": {"gracePeriodSeconds": GRACE_SECONDS + 30}}}))


def secrets_in(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        if "secretKeyRef" in found:
            yield found["secretKeyRef"]["name"]
        for value in found.values():
            yield from secrets_in(value)
    elif isinstance(found, list):
        for value in found:
            yield from secrets_in(value)


def test_only_scoring_sees_the_judges_key_and_only_who_asks_them_those_of_endpoints(everything: Release) -> None:
    seen = {name: set(secrets_in(template)) for name, template in everything.pods()}
    assert {name for name, secrets in seen.items() if "judge" in secrets} == {"score", "score-cpu-demo"}
    assert {name for name, secrets in seen.items() if "servers" in secrets} == {"generate-endpoint"}
    assert {name for name, secrets in seen.items() if "hub-token" in secrets} == set(everything.profiles)
    assert seen["nightly"] == set(), "what submits a Run needs no key"


def test_no_secret_is_made_by_the_chart(everything: Release) -> None:
    assert everything.every("Secret") == {}


def test_workloads_have_accounts_of_their_own_and_no_token(everything: Release) -> None:
    expected = {"train": "train", "generate": "eval", "endpoint": "eval", "score": "eval"}
    for name, profile in everything.profiles.items():
        for template in templates(everything.job(name)):
            assert template["spec"]["serviceAccountName"] == f"{RELEASE}-{expected[profile['stage']]}"
            assert template["spec"]["automountServiceAccountToken"] is False
    assert {account["automountServiceAccountToken"] for account in everything.every("ServiceAccount").values()} == {
        False
    }
    assert everything.controller["spec"]["automountServiceAccountToken"] is True


def test_every_container_is_bounded_and_hardened(everything: Release) -> None:
    for name, container in everything.containers():
        assert {"requests", "limits"} <= container["resources"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
