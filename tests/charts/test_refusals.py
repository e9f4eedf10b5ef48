from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.charts.helm import MINIMAL, Refused, merged, render
from tests.charts.pairs import SCHEDULE, SCHEDULED


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"stroe": {}}, "stroe"),
        ({"store": {"uri": "s3://bucket"}}, "uri"),
        ({"store": {"url": "https://bucket"}}, "/store/url"),
        ({"controller": {"replicas": 2}}, "replicas"),
        ({"profileDefaults": {"gpu": 8}}, "gpu"),
        ({"profiles": {"train-8gpu": {"gpusPerPod": "8"}}}, "/profiles/train-8gpu/gpusPerPod"),
        ({"profiles": {"Mine": {}}}, "Mine"),
        ({"profiles": {"mine": {"stage": "test"}}}, "/profiles/mine/stage"),
        ({"profileDefaults": {"shmSize": "8 GB"}}, "/profileDefaults/shmSize"),
        ({"image": {"train": {"digest": "latest"}}}, "/image/train/digest"),
        ({"s3": {"accessKeyId": "AKIA"}}, "accessKeyId"),
        ({"s3": {"addressingStyle": "dns"}}, "/s3/addressingStyle"),
        ({"judge": {"key": "secret"}}, "key"),
        ({"judge": {"keys": {"lower": "k"}}}, "lower"),
        ({"schedules": [{**SCHEDULE, "name": "a-name-longer-than-twenty-one"}]}, "/schedules/0/name"),
        ({"schedules": [{**SCHEDULE, "startingDeadlineSeconds": 5}]}, "/schedules/0/startingDeadlineSeconds"),
        ({"schedules": [{"name": "a", "cron": "* * * * *"}]}, "run"),
        ({"networkPolicy": {"judgePorts": []}}, "/networkPolicy/judgePorts"),
        ({"endpoint": {"keys": {"lower": "k"}}}, "lower"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_is_unknown_or_of_another_kind_is_refused_with_its_place(
    values: dict[str, Any], place: str
) -> None:
    with pytest.raises(Refused, match="schema") as refused:
        render(merged(MINIMAL, values))
    assert place in str(refused.value)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"store": {"url": ""}}, "store.url is not set: give s3://bucket/prefix."),
        ({"caBundle": {"configMap": "a", "secret": "b"}}, "caBundle.configMap and caBundle.secret are both set"),
        ({"modelCache": {"existingClaim": "a", "claim": {"create": True}}}, "modelCache: keep one of"),
        ({"modelCache": {"existingClaim": "a", "volume": {"emptyDir": {}}}}, "modelCache: keep one of"),
        (
            {"defaultProfiles": {"score": "nothing"}},
            "defaultProfiles.score: nothing is not an enabled profile of this stage",
        ),
        ({"defaultProfiles": {"score": "generate"}}, "defaultProfiles.score: generate is not an enabled profile"),
        ({"defaultProfiles": {"generate": "generate-endpoint"}}, "defaultProfiles.generate: generate-endpoint is not"),
        ({"defaultProfiles": {"endpoint": ""}}, "defaultProfiles.endpoint is empty: name one of the enabled profiles"),
        ({"profiles": {"score": {"enabled": False}}}, "defaultProfiles.score: score is not an enabled profile"),
        (
            {"profiles": {"train-8gpu": {"processesPerPod": 4}}},
            "profiles.train-8gpu: processesPerPod (4) differs from gpusPerPod (8)",
        ),
        (
            {"profiles": {"train-2gpu": {"gracePeriodSeconds": 300}}},
            "profiles.train-2gpu: gracePeriodSeconds (300) is less than 330",
        ),
        ({"profiles": {"generate": {"pods": 2}}}, "profiles.generate: pods and processesPerPod are for training only"),
        ({"schedules": [SCHEDULE, SCHEDULE]}, "schedules: nightly is there twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(Refused) as refused:
        render(merged(MINIMAL, values))
    assert fault in str(refused.value)


def test_a_stage_that_nobody_may_use_needs_no_profile() -> None:
    values = {"defaultProfiles": {"endpoint": ""}, "profiles": {"generate-endpoint": {"enabled": False}}}
    stages = {profile["stage"] for profile in render(merged(MINIMAL, values)).profiles.values()}
    assert stages == {"train", "generate", "score"}


def test_all_faults_are_told_at_once() -> None:
    values = {"store": {"url": ""}, "profiles": {"generate": {"pods": 2}}, "defaultProfiles": {"score": "nothing"}}
    with pytest.raises(Refused) as refused:
        render(values)
    assert str(refused.value).count("\n- ") == 3


def test_a_profile_of_ones_own_takes_what_it_leaves_out_from_the_defaults_even_to_nothing() -> None:
    shared = {"queue": "gpus", "nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "a"}]}
    mine = {"stage": "score", "queue": "", "nodeSelector": {"zone": "1"}, "tolerations": []}
    release = render(merged(MINIMAL, {"profileDefaults": shared, "profiles": {"mine": mine}}))
    assert release.job("score")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue.x-k8s.io/queue-name" not in release.job("mine")["metadata"]["labels"]
    assert release.pod("mine")["nodeSelector"] == {"pool": "gpu", "zone": "1"}
    assert "tolerations" not in release.pod("mine")
    assert release.pod("score")["tolerations"] == [{"key": "a"}]


def test_a_profile_is_taken_away_by_null() -> None:
    values = merged(MINIMAL, {"profiles": {"train-2gpu": None}})
    assert "train-2gpu" not in render(values).profiles
    assert "train-2gpu" in render(MINIMAL).profiles


def test_a_scheduled_run_reaches_submit_as_it_was_written() -> None:
    release = render(merged(MINIMAL, SCHEDULED))
    text = release.one("ConfigMap", "tandem-schedules")["data"]["nightly.yaml"]
    assert yaml.safe_load(text) == SCHEDULE["run"]
