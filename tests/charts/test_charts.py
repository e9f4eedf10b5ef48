from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_group

from tandem.cli.app import app
from tandem.store.s3 import connect
from tests.charts.helm import (
    CI,
    EVERYTHING,
    MINIMAL,
    NAMESPACE,
    RELEASE,
    Refused,
    Release,
    merged,
    release_of,
    render,
    run_helm,
)
from tests.charts.pairs import SCHEDULED
from tests.charts.places import CHART, CRD_CHART


@pytest.fixture(scope="module")
def everything() -> Release:
    return release_of(EVERYTHING)


def test_the_controllers_role_is_narrow(everything: Release) -> None:
    assert everything.every("ClusterRole") == everything.every("ClusterRoleBinding") == {}
    for role in everything.every("Role").values():
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in words
            assert "secrets" not in words
            assert not {"deletecollection", "escalate", "bind", "impersonate"} & set(words)


def test_roles_for_people_come_with_the_custom_resource_and_join_those_of_kubernetes() -> None:
    roles = render({}, chart=CRD_CHART).every("ClusterRole")
    assert set(roles) == {"tandem-run-editor", "tandem-run-viewer"}
    changing = {"create", "update", "patch", "delete", "deletecollection"}
    for name, role in roles.items():
        allowed = {
            (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
        }
        assert ("pods/log", "get") in allowed
        assert {resource for resource, verb in allowed if verb in changing} == ({"runs"} if "editor" in name else set())
    aggregated = {
        name: {label for label in role["metadata"]["labels"] if "aggregate-to" in label} for name, role in roles.items()
    }
    prefix = "rbac.authorization.k8s.io/aggregate-to"
    assert aggregated == {
        "tandem-run-editor": {f"{prefix}-edit", f"{prefix}-admin"},
        "tandem-run-viewer": {f"{prefix}-view"},
    }
    alone = render({"roles": {"aggregate": False}}, chart=CRD_CHART).every("ClusterRole")
    assert not any("aggregate" in label for role in alone.values() for label in role["metadata"]["labels"])
    assert render({"roles": {"create": False}}, chart=CRD_CHART).every("ClusterRole") == {}


def test_the_definition_outlives_its_release_unless_one_says_otherwise() -> None:
    def metadata(values: dict[str, Any]) -> Any:
        return render(values, chart=CRD_CHART).one("CustomResourceDefinition", "runs.tandem.dev")["metadata"]

    assert metadata({})["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in metadata({"keep": False})
    assert metadata({"keep": False, "annotations": {"a": "b"}})["annotations"] == {"a": "b"}
    assert metadata({"labels": {"a": "b"}})["labels"]["a"] == "b"


def test_a_schedule_never_overlaps_is_not_given_up_and_names_its_run_after_its_tick() -> None:
    release = render(merged(MINIMAL, SCHEDULED))
    spec = release.one("CronJob", "nightly")["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
    assert spec["startingDeadlineSeconds"] >= 10
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["submit", "/etc/tandem/schedules/nightly.yaml"]
    assert "$(JOB_NAME)" in container["args"]
    source = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}["JOB_NAME"]
    # <CronJob>-<minutes since 1970>: the same for every pod of a tick.
    assert source == {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}


def test_whoever_may_read_metrics_the_pod_of_helm_test_may_ask_the_controller(everything: Release) -> None:
    (rule,) = everything.one("NetworkPolicy", f"{RELEASE}-controller")["spec"]["ingress"]
    monitoring, test = rule["from"]
    assert "namespaceSelector" in monitoring
    labels = everything.one("Pod", f"{RELEASE}-controller-test")["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_tandem_takes_the_arguments_that_every_container_gives_it(values: Path) -> None:
    commands = get_group(app).commands
    given = [container["args"] for _, container in release_of(values).containers() if "args" in container]
    assert {name for name, *_ in given} >= {"controller", "stage"}
    for name, *arguments in given:
        commands[name].make_context(name, arguments)


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_boto3_addresses_buckets_as_the_chart_says(style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = render(merged(MINIMAL, {"s3": {"addressingStyle": style, "endpoint": "https://s3.example.com"}}))
    file = tmp_path / "config"
    file.write_text(release.one("ConfigMap", f"{RELEASE}-aws")["data"]["config"])
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    client = connect(endpoint="https://s3.example.com", region="eu-1", access_key="a", secret_key="b")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    assert url.startswith(
        "https://s3.example.com/bucket/key" if style == "path" else "https://bucket.s3.example.com/key"
    )


@pytest.mark.parametrize(
    ("chart", "values"), [(CRD_CHART, None), *((CHART, path) for path in CI)], ids=lambda it: getattr(it, "stem", "")
)
def test_helm_finds_nothing_to_complain_about(chart: Path, values: Path | None) -> None:
    given = () if values is None else ("--values", str(values))
    assert "1 chart(s) linted, 0 chart(s) failed" in run_helm("lint", "--strict", str(chart), *given)


@pytest.mark.parametrize("chart", [CHART, CRD_CHART], ids=lambda chart: chart.name)
def test_a_kubernetes_that_is_too_old_is_refused(chart: Path) -> None:
    arguments = (
        ("template", RELEASE, str(chart), "--set", "store.url=s3://bucket")
        if chart is CHART
        else ("template", RELEASE, str(chart))
    )
    with pytest.raises(Refused, match=re.escape("kubeVersion: >=1.29.0-0")):
        run_helm(*arguments, "--kube-version", "1.28.15")
    run_helm(*arguments, "--kube-version", "1.29.0")


def test_the_notes_say_what_is_missing_and_what_to_do_next() -> None:
    command = (
        "install",
        RELEASE,
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--dry-run=client",
        "--set",
        "store.url=s3://bucket",
    )
    notes = run_helm(*command).partition("NOTES:")[2]
    assert "MISSING: the custom resource Run. Install the chart tandem-crds" in notes
    assert "MISSING: PyTorchJob" in notes
    assert "train    train-8gpu (default)" in notes
    assert f"tandem submit FILE -n {NAMESPACE} --wait" in notes
