"""`tandem check --cluster` against a real API server: as one of the chart's users, and as one who may make pods."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.check import Severity
from tandem.check.report import Collector, Finding
from tandem.control.api import RUN
from tandem.control.cluster import connect
from tandem.readiness import check_cluster
from tandem.readiness.admission import find_violations
from tandem.spec import Submission, parse_object
from tests.charts.cluster import Denied, Namespace, operator_manifests
from tests.charts.helm import MINIMAL, merged, render
from tests.charts.test_admission import COMPONENT, apply
from tests.cluster import ApiServer
from tests.e2e.desk import Desk
from tests.spec.runs import run_file

USER = "researcher"
IN_STORE: dict[str, Any] = {
    "model": {"source": "s3://bucket/inputs/model"},
    "train": {"meta": "s3://bucket/inputs/t.json", "epochs": 1, "batch": {"globalSize": 16}, "ranks": 16},
    "evals": [{"name": "heldout", "data": "s3://bucket/inputs/e.json"}],
    "profiles": {"train": "train-multipod"},
}
UNSEEN = "not-looked-at"

Operator = Callable[..., None]
"""Installs the operator: with our component, or as it comes."""


@pytest.fixture
def operator(taught_server: ApiServer, tmp_path: Path) -> Iterator[Operator]:
    """What of the operator people may see: its Deployment and settings; no node runs it."""
    seen: list[dict[str, Any]] = []

    def install(*, component: bool) -> None:
        shutil.copytree(operator_manifests(), tmp_path / "manifests")
        shutil.copytree(COMPONENT, tmp_path / "component")
        whole = {"resources": ["manifests/overlays/standalone"], "components": ["component"] if component else []}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({**whole, "namespace": "kubeflow"}))
        built = yaml.load_all(taught_server.kubectl("kustomize", str(tmp_path)), Loader=yaml.CSafeLoader)
        seen.extend(
            found
            for found in built
            if found["kind"] in ("Namespace", "Deployment", "ConfigMap") or "reader" in found["metadata"]["name"]
        )
        seen.sort(key=lambda found: str(found["kind"] != "Namespace"))
        taught_server.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(seen))

    yield install
    left = [found for found in seen if found["kind"] != "Namespace"]
    if left:
        taught_server.kubectl("delete", "-f", "-", given=yaml.safe_dump_all(left))


def install(namespace: Namespace, **values: Any) -> None:
    """The chart, with the service account as one of its users."""
    users = [{"kind": "ServiceAccount", "name": USER, "namespace": namespace.name}]
    apply(render(merged(MINIMAL, {"rbac": {"users": users}}, values)), namespace)


def log_in(namespace: Namespace, folder: Path, *, role: str = "") -> Path:
    """A kubeconfig of the service account, which gets one of Kubernetes' own roles if that is named."""
    namespace.kubectl("create", "serviceaccount", USER)
    if role:
        account = f"{namespace.name}:{USER}"
        namespace.kubectl("create", "rolebinding", USER, f"--clusterrole={role}", f"--serviceaccount={account}")
    login = json.loads(namespace.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    login["users"][0]["user"] = {"token": namespace.kubectl("create", "token", USER).strip()}
    login["contexts"][0]["context"]["namespace"] = namespace.name
    path = folder / "kubeconfig"
    path.write_text(json.dumps(login))
    return path


def submit(**spec: Any) -> Submission:
    return parse_object(run_file(**{**IN_STORE, **spec}))


def look(kubeconfig: Path, submission: Submission | None = None) -> list[Finding]:
    """What is missing, but for controller and operator being ready: there is no node for them."""
    findings = Collector()
    api = connect(kubeconfig=str(kubeconfig))
    check_cluster(submission or submit(), api, api.namespace, findings)
    return [found for found in findings.findings if not found.code.endswith("-not-ready")]


def test_a_user_of_the_chart_may_look_at_all_that_the_check_looks_at_but_secrets(
    namespace: Namespace, operator: Operator, tmp_path: Path
) -> None:
    operator(component=True)
    install(namespace, s3={"existingSecret": "s3-account"}, modelCache={"claim": {"create": True}})
    (found,) = look(log_in(namespace, tmp_path))
    assert (found.code, found.severity) == (UNSEEN, Severity.WARNING)
    assert "you may not look at Secret s3-account. " in str(found.fault)


@pytest.mark.parametrize("role", ["", "edit"])
def test_the_operators_own_settings_are_found_by_whoever_may_see_them(
    role: str, namespace: Namespace, operator: Operator, tmp_path: Path
) -> None:
    operator(component=False)
    install(namespace)
    kubeconfig = log_in(namespace, tmp_path, role=role)
    (found,) = look(kubeconfig)
    assert "you may not look at the training operator (deployment training-operator)" in found.fault.what
    namespace.server.kubectl("apply", "-f", str(COMPONENT / "readers.yaml"))
    try:
        (found,) = look(kubeconfig)
    finally:
        namespace.server.kubectl("delete", "-f", str(COMPONENT / "readers.yaml"))
    assert found.code == "training-operator-settings"
    assert "init-pytorch" in found.fault.what
    assert ("violates PodSecurity" in found.fault.what) == bool(role), "who may make pods asks the server"


@pytest.mark.parametrize("role", ["", "edit"])
def test_containers_without_a_security_context_are_found_by_everybody(
    role: str, namespace: Namespace, operator: Operator, tmp_path: Path
) -> None:
    operator(component=True)
    install(namespace, profileDefaults={"securityContext": {"capabilities": None}})
    found = look(log_in(namespace, tmp_path, role=role))
    assert [(one.code, one.fault.where) for one in found] == [
        ("pod-refused", f"profile {name}") for name in ("train-multipod", "generate", "score")
    ]
    assert all("capabilities" in one.fault.what for one in found)


def test_what_is_demanded_of_containers_is_what_the_server_demands(namespace: Namespace) -> None:
    contexts: tuple[tuple[str, Any, Any], ...] = (
        ("allowPrivilegeEscalation", False, True),
        ("capabilities", {"drop": ["ALL"]}, {"drop": ["NET_RAW"]}),
        ("runAsNonRoot", True, None),
        ("seccompProfile", {"type": "RuntimeDefault"}, None),
    )
    for choice in product((True, False), repeat=len(contexts)):
        given = {key: good if is_good else bad for is_good, (key, good, bad) in zip(choice, contexts, strict=True)}
        context = {key: value for key, value in given.items() if value is not None}
        pod = {"containers": [{"name": "one", "image": "nowhere.invalid/image", "securityContext": context}]}
        named = [key for key, _, _ in contexts if any(key in text for text in find_violations(pod))]
        assert named == [key for is_good, (key, _, _) in zip(choice, contexts, strict=True) if not is_good]
        if not named:
            namespace.try_pod({"metadata": {}, "spec": pod}, "one")
            continue
        with pytest.raises(Denied, match="violates PodSecurity") as denied:
            namespace.try_pod({"metadata": {}, "spec": pod}, "one")
        assert [key for key, _, _ in contexts if key in str(denied.value)] == named


def test_the_pods_context_stands_in_for_its_containers(namespace: Namespace) -> None:
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    common = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    containers = [{"name": "one", "image": "nowhere.invalid/image", "securityContext": own}]
    pod = {"securityContext": common, "containers": containers}
    assert list(find_violations(pod)) == []
    namespace.try_pod({"metadata": {}, "spec": pod}, "one")


def test_who_has_no_role_is_told_so_and_what_is_known_all_the_same(namespace: Namespace, tmp_path: Path) -> None:
    apply(render(MINIMAL), namespace)
    found = look(log_in(namespace, tmp_path))
    assert [one.code for one in found] == [*["not-permitted"] * 4, *[UNSEEN] * 2]
    assert "you may not create, get runs. Ask the platform team for the ClusterRole tandem-run-editor" in str(
        found[0].fault
    )


def test_a_field_that_the_cluster_does_not_know_is_found(namespace: Namespace, tmp_path: Path) -> None:
    install(namespace)
    known = submit()
    newer = Submission(run=known.run, spec={**known.spec, "newer": 1}, folder=known.folder, id=known.id)
    found = next(one for one in look(log_in(namespace, tmp_path), newer) if one.code == "run-refused")
    assert 'unknown field "spec.newer"' in found.fault.what
    assert "upgrade the chart tandem-crds" in found.fault.remedy


def test_a_full_quota_and_a_taken_name_are_found(namespace: Namespace, tmp_path: Path) -> None:
    install(namespace)
    kubeconfig = log_in(namespace, tmp_path, role="edit")
    connect(kubeconfig=str(kubeconfig)).create(RUN, namespace.name, run_file(**IN_STORE), strict=True)
    (seen,) = {one.code for one in look(kubeconfig)} - {UNSEEN} or {"nothing"}
    assert seen == "nothing"
    assert "name-taken" in {one.code for one in look(kubeconfig, submit(seed=7))}
    namespace.kubectl("create", "quota", "one", "--hard=count/runs.tandem.dev=1")
    other = run_file(**IN_STORE)
    other["metadata"]["name"] = "other"

    def quota_seen() -> list[Finding]:
        return [one for one in look(kubeconfig, parse_object(other)) if one.code == "run-refused"]

    while not (found := quota_seen()):  # the server's quota controller counts first
        pass
    assert found[0].cause == "unavailable"
    assert "exceeded quota" in found[0].fault.what


def test_a_namespace_that_is_not_there_is_found_alone(namespace: Namespace, tmp_path: Path) -> None:
    findings = Collector()
    check_cluster(submit(), connect(kubeconfig=str(namespace.server.kubeconfig)), "nowhere", findings)
    assert [one.code for one in findings.findings] == ["namespace-missing"]


def test_the_command_says_all_of_it_in_lines(namespace: Namespace, operator: Operator, tmp_path: Path) -> None:
    operator(component=True)
    install(namespace, profileDefaults={"queue": "gpus"})
    kubeconfig = log_in(namespace, tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run_file(**{**IN_STORE, "model": {"source": "model"}})))
    answer = Desk(folder=tmp_path).tandem("check", "run.json", "--cluster", "--kubeconfig", str(kubeconfig))
    assert answer.code == 78
    said = [line.partition(": ")[0::2] for line in answer.err.splitlines()]
    assert [text for word, text in said if word == "fault"] == [
        "spec.model.source: model: is a path of one machine: pods cannot read it. Push all of the Run's inputs with "
        "`tandem push FILE --store URL`, and use the Run that it prints.",
        f"deployment {namespace.name}/tandem-controller: the controller is not ready, so nothing will begin. See "
        f"`kubectl -n {namespace.name} describe deployment tandem-controller` and its log.",
        "deployment kubeflow/training-operator: the training operator is not ready, so no training will begin. Have "
        "the platform team see `kubectl -n kubeflow describe deployment training-operator`.",
    ]
    assert "cluster knows no LocalQueue" in answer.err
    assert "train: train-8gpu 8 ranks on 8 GPUs (default), " in answer.out
    assert re.search(r"^  run +not there yet$", answer.out, flags=re.MULTILINE)
