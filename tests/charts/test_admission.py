from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.cluster import Denied, Namespace, operator_manifests, teach
from tests.charts.helm import CI, MINIMAL, Release, merged, release_of, render, run_helm
from tests.charts.pairs import SCHEDULED
from tests.charts.places import CHART, CRD_CHART, ROOT
from tests.spec.runs import run_file

COMPONENT = ROOT / "k8s" / "training-operator"
SHARED = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "batch"}, "value": 1},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
]


def place(found: dict[str, Any], namespace: Namespace) -> dict[str, Any]:
    """The object without the namespace that it was rendered for."""
    metadata = {**found["metadata"], "namespace": namespace.name}
    subjects = [{**it, "namespace": namespace.name} if "namespace" in it else it for it in found.get("subjects", [])]
    return {**found, "metadata": metadata, **({"subjects": subjects} if subjects else {})}


def apply(release: Release, namespace: Namespace) -> None:
    objects = [*SHARED, *(place(found, namespace) for found in release.objects)]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    namespace.server.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=yaml.safe_dump(listed))


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_everything_that_the_chart_makes_is_admitted_under_the_restricted_standard(
    values: Path, namespace: Namespace
) -> None:
    release = release_of(values)
    apply(release, namespace)
    for number, (name, template) in enumerate(release.pods()):
        namespace.try_pod(template, f"{name}-{number}")
    for name in release.profiles:
        job = release.job(name)
        namespace.create({**job, "metadata": {**job["metadata"], "name": f"{name}-1"}}, dry=True)


def test_the_standard_is_enforced_where_this_is_tried(namespace: Namespace) -> None:
    loose = {"profileDefaults": {"securityContext": {"readOnlyRootFilesystem": False, "capabilities": None}}}
    release = render(merged(MINIMAL, loose))
    apply(release, namespace)
    with pytest.raises(Denied, match="violates PodSecurity"):
        namespace.try_pod({"metadata": {}, "spec": release.pod("score")}, "loose")


def test_a_mistake_in_a_profile_is_seen_by_the_api_server(namespace: Namespace) -> None:
    release = render(merged(MINIMAL, {"profileDefaults": {"tolerations": [{"kee": "gpu"}]}}))
    for name, complaint in (("score", "kee"), ("train-8gpu", "kee")):
        job = release.job(name)
        with pytest.raises(Denied, match=complaint):
            namespace.create({**job, "metadata": {**job["metadata"], "name": "mistake"}}, dry=True)


ALLOWED = {
    "runs.tandem.dev": {"get", "list", "watch", "delete"},
    "runs/status.tandem.dev": {"get", "update", "patch"},
    "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
    "pytorchjobs.kubeflow.org": {"get", "list", "watch", "create", "patch", "delete"},
    "pods": {"get", "list", "watch"},
    "workloads.kueue.x-k8s.io": {"get", "list", "watch"},
    "pods/log": {"get"},
    "events": {"create", "patch"},
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
OTHERS = (
    "secrets",
    "configmaps",
    "serviceaccounts",
    "pods/exec",
    "deployments.apps",
    "roles.rbac.authorization.k8s.io",
)


def test_every_account_may_do_what_it_must_and_nothing_else(namespace: Namespace) -> None:
    apply(render(merged(MINIMAL, SCHEDULED)), namespace)

    def granted(role: str) -> dict[str, set[str]]:
        who = f"system:serviceaccount:{namespace.name}:tandem-{role}"
        found: dict[str, set[str]] = {}
        for resource, verb in product((*ALLOWED, *OTHERS), VERBS):
            if namespace.may(who, verb, resource):
                found.setdefault(resource, set()).add(verb)
        return found

    assert granted("controller") == ALLOWED
    assert granted("schedule") == {"runs.tandem.dev": {"get", "list", "create"}}


@pytest.mark.parametrize("role", ["train", "eval"])
def test_workloads_may_do_nothing(role: str, namespace: Namespace) -> None:
    apply(render(MINIMAL), namespace)
    who = f"system:serviceaccount:{namespace.name}:tandem-{role}"
    assert [
        it
        for it in product(("runs.tandem.dev", "pods", "secrets"), ("get", "create"))
        if namespace.may(who, it[1], it[0])
    ] == []


def test_people_named_in_the_values_may_use_runs(namespace: Namespace) -> None:
    users = {"rbac": {"users": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}]}}
    apply(render(merged(MINIMAL, users)), namespace)
    assert namespace.may("ann", "create", "runs.tandem.dev")
    assert namespace.may("ann", "get", "pods/log")
    assert not namespace.may("ann", "update", "runs/status.tandem.dev")
    assert not namespace.may("ann", "create", "pods")
    assert not namespace.may("ben", "create", "runs.tandem.dev")


def init_container(template: str) -> list[dict[str, Any]]:
    """The operator's template, filled in as the operator fills it in."""
    filled = {"InitContainerImage": "alpine:3.10", "MaxTries": "100", "MasterAddr": "small-0123456789-t-1-master-0"}
    for name, value in filled.items():
        template = template.replace("{{." + name + "}}", value)
    assert "{{" not in template
    found: list[dict[str, Any]] = yaml.safe_load(template)
    return found


# kubeflow/training-operator v1.9.4, pkg/controller.v1/pytorch/initcontainer.go
BUILT_IN = """
- name: init-pytorch
  image: {{.InitContainerImage}}
  command: ['sh', '-c', 'for i in $(seq {{.MaxTries}}); do nslookup {{.MasterAddr}} && break; sleep 2; done']
"""


def test_the_operators_setting_that_is_shipped_lets_workers_pass_where_its_own_does_not(namespace: Namespace) -> None:
    release = render(MINIMAL)
    apply(release, namespace)
    worker = release.job("train-multipod")["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]

    def admit(containers: list[dict[str, Any]]) -> None:
        namespace.try_pod({**worker, "spec": {**worker["spec"], "initContainers": containers}}, "worker")

    with pytest.raises(Denied, match=r"violates PodSecurity.*init-pytorch"):
        admit(init_container(BUILT_IN))
    admit(init_container((COMPONENT / "initContainer.yaml").read_text(encoding="utf-8")))


def test_a_worker_that_waits_for_its_master_ends_when_told_to_even_as_first_process() -> None:
    """Whom nothing ends but what it handles itself: the kernel keeps default actions from it."""
    ((*command, script),) = (
        one["command"] for one in init_container((COMPONENT / "initContainer.yaml").read_text(encoding="utf-8"))
    )
    with subprocess.Popen([*command, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waiting for master\n"
        waiting.terminate()
        assert waiting.wait(timeout=10) == 143


def test_the_component_gives_the_setting_to_the_operator(namespace: Namespace, tmp_path: Path) -> None:
    shutil.copytree(operator_manifests(), tmp_path / "manifests")
    shutil.copytree(COMPONENT, tmp_path / "component")
    whole = {"resources": ["manifests/overlays/standalone"], "components": ["component"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    built = list(yaml.load_all(namespace.kubectl("kustomize", str(tmp_path)), Loader=yaml.CSafeLoader))
    (operator,) = (found for found in built if found["kind"] == "Deployment")
    pod = operator["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [
        "--pytorch-init-container-template-file=/etc/config/initContainer.yaml",
        "--pytorch-init-container-max-tries=1800",
    ]
    assert {"name": "pytorch-init-container", "mountPath": "/etc/config", "readOnly": True} in container["volumeMounts"]
    (volume,) = (found for found in pod["volumes"] if found["name"] == "pytorch-init-container")
    (config,) = (found for found in built if found["metadata"]["name"] == volume["configMap"]["name"])
    assert config["metadata"]["namespace"] == operator["metadata"]["namespace"]
    (reader,) = (
        found for found in built if found["metadata"]["name"] == "training-operator-reader" if "rules" in found
    )
    seen = {name for rule in reader["rules"] for name in rule["resourceNames"]}
    assert seen == {operator["metadata"]["name"], config["metadata"]["name"]}
    assert reader["metadata"]["namespace"] == operator["metadata"]["namespace"]
    assert config["data"] == {"initContainer.yaml": (COMPONENT / "initContainer.yaml").read_text(encoding="utf-8")}


def test_upgrades_leave_jobs_alone_and_an_uninstall_keeps_runs_and_data(new_namespace: Callable[[], Namespace]) -> None:
    namespace = new_namespace()

    def helm(*arguments: str) -> str:
        return run_helm("--kubeconfig", str(namespace.server.kubeconfig), "--namespace", namespace.name, *arguments)

    helm("install", "tandem-crds", str(CRD_CHART), "--take-ownership", "--force-conflicts")
    values = ("--set", "store.url=s3://bucket", "--set", "modelCache.claim.create=true")
    helm("install", "tandem", str(CHART), *values)
    namespace.create(run_file())
    job = render(MINIMAL).job("score")
    made = namespace.create({**job, "metadata": {**job["metadata"], "name": "small-0123456789-s0-1"}})

    helm("upgrade", "tandem", str(CHART), *values, "--set", "profileDefaults.gracePeriodSeconds=99")
    profiles = namespace.get("configmap", "tandem-profiles")["data"]
    assert "terminationGracePeriodSeconds: 99" in profiles["score.yaml"]
    assert namespace.get("job", "small-0123456789-s0-1")["spec"] == made["spec"]
    helm("rollback", "tandem", "1")
    assert (
        "terminationGracePeriodSeconds: 99" not in namespace.get("configmap", "tandem-profiles")["data"]["score.yaml"]
    )

    helm("uninstall", "tandem")
    helm("uninstall", "tandem-crds")
    assert [found["metadata"]["name"] for found in namespace.get("runs")["items"]] == ["small"]
    assert [found["metadata"]["name"] for found in namespace.get("jobs")["items"]] == ["small-0123456789-s0-1"]
    assert namespace.get("persistentvolumeclaim", "tandem-models")
    assert namespace.get("deployments")["items"] == []
    # People's roles went with the chart; the other tests want them back.
    teach(namespace.server)
