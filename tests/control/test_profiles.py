"""Profiles: read whole, faults of all of them at once, and chosen by what the Run says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.control.profiles import choose_profile, list_images, parse_profile, read_profiles
from tandem.errors import BadConfiguration
from tandem.spec import RunSpec
from tests.control.profiles import IMAGE, endpoint, generate, score, train, write_profiles
from tests.control.world import SPEC

Change = Callable[[dict[str, Any]], None]


def test_a_folder_of_profiles_is_read_by_name(tmp_path: Path) -> None:
    found = read_profiles(write_profiles(tmp_path / "profiles"))
    assert sorted(found) == ["generate-1", "score", "train-2"]
    assert list_images(found["train-2"].manifest) == [IMAGE]


def test_faults_of_every_file_are_said_at_once(tmp_path: Path) -> None:
    broken = train()
    broken["manifest"]["spec"]["runPolicy"] = {"backoffLimit": 3, "cleanPodPolicy": "None"}
    broken["ranks"] = 16
    folder = write_profiles(tmp_path / "profiles", {"train": broken, "g-1": generate(), "g-2": generate()})
    (folder / "text.yaml").write_text("a: [")
    (folder / "nothing.yaml").write_text("stage: train\n")
    with pytest.raises(BadConfiguration) as caught:
        read_profiles(folder)
    said = str(caught.value)
    assert "train.yaml: ranks says 16, and its 2 pods of 1 processes make 2" in said
    assert "train.yaml: runPolicy.cleanPodPolicy must be Running" in said
    assert "train.yaml: runPolicy.backoffLimit must be 0" in said
    assert "text.yaml: is not YAML" in said
    assert "nothing.yaml: manifest" in said
    assert "profiles for generate (g-1, g-2): exactly one must be the default, and g-1, g-2 is" in said


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="--profiles"):
        read_profiles(tmp_path / "nowhere")


def drop(profile: dict[str, Any], *path: str) -> None:
    for key in path[:-1]:
        profile = profile[key]
    del profile[path[-1]]


def put(profile: Any, value: Any, *path: str | int) -> None:
    for key in path[:-1]:
        profile = profile[key]
    profile[path[-1]] = value


POD = ("manifest", "spec", "template", "spec")


@pytest.mark.parametrize(
    ("made", "change", "said"),
    [
        (train, lambda p: put(p, "Pod", "manifest", "kind"), "neither a PyTorchJob"),
        (score, lambda p: put(p, 2, "ranks"), "ranks is for train"),
        (train, lambda p: drop(p, "ranks"), "train needs ranks"),
        (train, lambda p: put(p, {"name": "x"}, "manifest", "metadata"), "metadata.name is set by the controller"),
        (score, lambda p: put(p, 6, "manifest", "spec", "backoffLimit"), "backoffLimit must be 0"),
        (score, lambda p: put(p, "OnFailure", *POD, "restartPolicy"), "restartPolicy must be Never"),
        (generate, lambda p: drop(p, "manifest", "spec", "completionMode"), "completionMode must be Indexed"),
        (endpoint, lambda p: drop(p, "manifest", "spec", "completionMode"), "completionMode must be Indexed"),
        (generate, lambda p: put(p, 4, "gpus"), "gpus says 4, and its pod asks for 1"),
        (
            generate,
            lambda p: put(p, {"nvidia.com/gpu": ""}, *POD, "containers", 0, "resources", "limits"),
            "the limit of nvidia.com/gpu is no whole number: ''",
        ),
        (
            train,
            lambda p: put(p, "two", "manifest", "spec", "pytorchReplicaSpecs", "Worker", "replicas"),
            "Worker.replicas is no whole number: 'two'",
        ),
        (score, lambda p: put(p, [], *POD, "containers"), "no usable pod template"),
        (score, lambda p: drop(p, *POD), "no usable pod template"),
        (score, lambda p: put(p, "main", *POD[:-1], "spec", "containers"), "no usable pod template"),
        (score, lambda p: put(p, True, "extra"), "extra: Extra inputs are not permitted"),
    ],
)
def test_a_profile_that_would_not_work_is_refused(made: Callable[[], Any], change: Change, said: str) -> None:
    profile = copy.deepcopy(made())
    change(profile)
    with pytest.raises(BadConfiguration) as caught:
        parse_profile(yaml.safe_dump(profile).encode(), where="it.yaml")
    assert said in str(caught.value)
    assert all(fault.where.startswith("it.yaml") for fault in caught.value.faults)


def test_a_pod_that_does_not_know_its_uid_is_refused() -> None:
    profile = score()
    profile["manifest"]["spec"]["template"]["spec"]["containers"][0]["env"] = []
    with pytest.raises(BadConfiguration, match="needs POD_UID"):
        parse_profile(yaml.safe_dump(profile).encode(), where="it.yaml")


def test_the_named_profile_is_chosen_else_the_default(tmp_path: Path) -> None:
    small = {**train(ranks=1), "default": False}
    found = read_profiles(write_profiles(tmp_path / "p", {"two": train(), "one": small}))
    assert choose_profile(found, RunSpec.model_validate(SPEC), "train").name == "two"
    with pytest.raises(BadConfiguration) as caught:
        choose_profile(found, RunSpec.model_validate({**SPEC, "profiles": {"train": "one"}}), "train")
    assert "trains on 1" in str(caught.value)
    with pytest.raises(BadConfiguration, match="there is no profile for score"):
        choose_profile(found, RunSpec.model_validate(SPEC), "score")
