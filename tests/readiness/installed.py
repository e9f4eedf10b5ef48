"""A cluster in memory in which nothing is missing for the Run of the controller's tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tandem.check import Finding, Report
from tandem.check.report import Collector
from tandem.control.api import (
    CONFIG_MAP,
    DEPLOYMENT,
    LOCAL_QUEUE,
    NAMESPACE,
    Object,
)
from tandem.control.fake import FakeApi
from tandem.control.manifest import pod_templates
from tandem.readiness import check_cluster, check_inputs
from tandem.spec import Submission, parse_object
from tests.control.profiles import generate, score, train
from tests.control.world import SPEC

TEAM = "team"
COMPONENT = Path(__file__).parents[2] / "k8s" / "training-operator"
LABELS = {"app.kubernetes.io/part-of": "tandem", "app.kubernetes.io/version": "1.2.3"}
SECURED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def usual_profiles(**more: dict[str, Any]) -> dict[str, Any]:
    """The three usual profiles and more, with containers that the restricted standard admits."""
    profiles = copy.deepcopy({"train-2": train(), "generate-1": generate(), "score": score(), **more})
    for profile in profiles.values():
        for template in pod_templates(profile["manifest"]):
            template["spec"]["containers"][0]["securityContext"] = copy.deepcopy(SECURED)
    return profiles


def pod_of(profile: dict[str, Any]) -> Any:
    """A profile's pod spec, to change."""
    return pod_templates(profile["manifest"])[0]["spec"]


def container_of(profile: dict[str, Any]) -> Any:
    """A profile's container, to change."""
    return pod_of(profile)["containers"][0]


def install(profiles: dict[str, Any] | None = None) -> FakeApi:
    """A server with namespace, controller, these profiles, their queue, and the operator as we have it set."""
    api = FakeApi()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create(NAMESPACE, None, {"metadata": {"name": TEAM, "labels": labels}})
    controller = _labelled("tandem-controller", "controller")
    api.create(DEPLOYMENT, TEAM, {**controller, "status": {"availableReplicas": 1}})
    put_profiles(api, usual_profiles() if profiles is None else profiles)
    api.create(LOCAL_QUEUE, TEAM, {"metadata": {"name": "team"}})
    api.create(DEPLOYMENT, "kubeflow", operator())
    text = (COMPONENT / "initContainer.yaml").read_text(encoding="utf-8")
    api.create(CONFIG_MAP, "kubeflow", {"metadata": {"name": "init"}, "data": {"initContainer.yaml": text}})
    return api


def put_profiles(api: FakeApi, profiles: dict[str, Any], name: str = "tandem-profiles") -> None:
    """A release's profiles."""
    data = {f"{key}.yaml": yaml.safe_dump(profile) for key, profile in profiles.items()}
    api.create(CONFIG_MAP, TEAM, {**_labelled(name, "profiles"), "data": data})


def operator() -> Object:
    """The training operator's Deployment, as the shipped component has it."""
    volume = {"name": "init", "configMap": {"name": "init"}}
    container = {
        "name": "training-operator",
        "args": ["--pytorch-init-container-template-file=/etc/config/initContainer.yaml"],
        "volumeMounts": [{"name": "init", "mountPath": "/etc/config"}],
    }
    return {
        "metadata": {"name": "training-operator", "labels": {"control-plane": "kubeflow-training-operator"}},
        "spec": {"template": {"spec": {"containers": [container], "volumes": [volume]}}},
        "status": {"availableReplicas": 1},
    }


def check(api: FakeApi, spec: dict[str, Any] | None = None) -> Report:
    """What is found for a Run of this spec, as `tandem check --cluster` asks."""
    submission = submission_of(spec)
    findings = Collector()
    facts: dict[str, Any] = {}
    check_inputs(submission.run.spec, findings, has_store=False)
    with findings.catching("cluster-unusable"):
        facts = check_cluster(submission, api, TEAM, findings)
    return Report(findings=tuple(findings.findings), facts=facts)


def submission_of(spec: dict[str, Any] | None = None) -> Submission:
    """A Run of this spec."""
    head = {"apiVersion": "tandem.dev/v1alpha1", "kind": "Run", "metadata": {"name": "demo"}}
    return parse_object({**head, "spec": SPEC if spec is None else spec})


def find(api: FakeApi, spec: dict[str, Any] | None = None) -> list[Finding]:
    """What is found beside that nobody looked into the store."""
    return [one for one in check(api, spec).findings if "whether the store holds these" not in one.fault.what]


def codes(findings: list[Finding]) -> list[str]:
    """Which kinds of findings."""
    return [one.code for one in findings]


def _labelled(name: str, component: str) -> Object:
    return {"metadata": {"name": name, "labels": {**LABELS, "app.kubernetes.io/component": component}}}
