"""Workers as the training operator makes them, under the restricted Pod Security Standard."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.check import Severity
from tandem.control.api import CONFIG_MAP, DEPLOYMENT, NAMESPACE, POD, Forbidden, Kind, Object
from tandem.control.fake import FakeApi
from tandem.errors import Fault
from tandem.readiness.admission import find_violations
from tests.control.profiles import train
from tests.control.world import SPEC
from tests.readiness.installed import SECURED, TEAM, codes, container_of, find, install, operator, usual_profiles

FILE = "/etc/config/initContainer.yaml"
BARE = '- name: init-pytorch\n  image: {{.InitContainerImage}}\n  command: [sh, -c, "nslookup {{ .MasterAddr }}"]\n'


class Strict(FakeApi):
    """Refuses pods as a namespace does that enforces the standard."""

    def create(
        self, kind: Kind, namespace: str | None, body: Object, *, strict: bool = False, dry_run: bool = False
    ) -> Object:
        """See Api."""
        violations = list(find_violations(body["spec"])) if kind == POD else []
        if violations:
            raise Forbidden(Fault(where="Pod", what=f"violates PodSecurity: {violations[0]}", remedy="Ask."))
        return super().create(kind, namespace, body, strict=strict, dry_run=dry_run)


def set_operator(api: FakeApi, **pod: Any) -> None:
    """Another pod for the operator: args, volumeMounts, volumes."""
    volumes = pod.pop("volumes", [])
    given = operator()
    given["spec"]["template"]["spec"] = {"containers": [{"name": "training-operator", **pod}], "volumes": volumes}
    api.delete(DEPLOYMENT, "kubeflow", "training-operator")
    api.create(DEPLOYMENT, "kubeflow", given)


def narrow(api: FakeApi) -> FakeApi:
    """Of somebody who may not make pods."""
    api.forbidden = frozenset({("create", "pods")})
    return api


def strict() -> FakeApi:
    """A server that is asked."""
    return Strict(_objects=install()._objects)


@pytest.mark.parametrize("api", [narrow(install()), strict()], ids=["by the label", "by a dry run"])
def test_the_built_in_container_is_found_where_the_standard_is_enforced(api: FakeApi) -> None:
    assert find(api) == []
    set_operator(api)
    (found,) = find(api)
    assert found.code == "training-operator-settings"
    assert "profile train-2: its workers are refused with the container that the training operator" in str(found.fault)
    assert "container init-pytorch must set securityContext.allowPrivilegeEscalation=false" in found.fault.what
    assert "k8s/training-operator" in found.fault.remedy


def test_it_does_no_harm_to_a_job_of_one_pod_nor_where_nothing_is_enforced() -> None:
    profiles = {**usual_profiles(), "train-2": train(ranks=1)}
    container_of(profiles["train-2"])["securityContext"] = SECURED
    api = narrow(install(profiles))
    set_operator(api)
    assert find(api, {**SPEC, "train": {**SPEC["train"], "ranks": 1}}) == []
    api = narrow(install())
    set_operator(api)
    api.change(NAMESPACE, None, TEAM, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}})
    assert find(api) == []


def test_a_namespace_that_may_not_be_looked_at_is_a_warning_to_whom_may_not_make_pods() -> None:
    api = narrow(install())
    api.forbidden |= {("get", "namespaces")}
    (found,) = find(api)
    assert (found.code, found.severity) == ("not-looked-at", Severity.WARNING)
    assert "whether its pods must keep a Pod Security Standard" in found.fault.what


def test_an_operator_that_may_not_be_looked_at_is_a_warning() -> None:
    api = install()
    api.forbidden = frozenset({("get", "deployments"), ("list", "deployments")})
    said = [one.fault for one in find(api)]
    assert [one.where for one in said] == ["namespace team", "namespace kubeflow"]
    assert "you may not look at the training operator (deployment training-operator)" in said[1].what


CONFIG = {"name": "init", "configMap": {"name": "init"}}
MOUNT = {"name": "init", "mountPath": "/etc/config"}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({"volumeMounts": [MOUNT], "volumes": [CONFIG]}, []),
        ({"args": [f"--pytorch-init-container-template-file={FILE}"]}, ["training-operator-settings"]),
        (
            {
                "args": ["-pytorch-init-container-template-file", "/elsewhere/initContainer.yaml"],
                "volumeMounts": [{"name": "init", "mountPath": "/elsewhere"}],
                "volumes": [CONFIG],
            },
            [],
        ),
        (
            {
                "args": ["--pytorch-init-container-template-file=/elsewhere/initContainer.yaml"],
                "volumeMounts": [MOUNT],
                "volumes": [CONFIG],
            },
            ["training-operator-settings"],
        ),
        (
            {
                "command": ["/manager", "--pytorch-init-container-template-file=/t/a/b.yaml"],
                "volumeMounts": [{"name": "init", "mountPath": "/t"}],
                "volumes": [
                    {
                        "name": "init",
                        "configMap": {"name": "init", "items": [{"key": "initContainer.yaml", "path": "a/b.yaml"}]},
                    }
                ],
            },
            [],
        ),
        (
            {
                "volumeMounts": [{"name": "init", "mountPath": FILE, "subPath": "initContainer.yaml"}],
                "volumes": [CONFIG],
            },
            [],
        ),
        ({"volumeMounts": [MOUNT], "volumes": [{"name": "init", "emptyDir": {}}]}, ["not-looked-at"]),
        ({"volumeMounts": [MOUNT], "volumes": [{"name": "init", "configMap": {"name": "other"}}]}, ["not-looked-at"]),
    ],
)
def test_the_template_is_found_wherever_the_operator_finds_it(pod: dict[str, Any], expected: list[str]) -> None:
    api = narrow(install())
    set_operator(api, **pod)
    assert codes(find(api)) == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"initContainer.yaml": BARE}, "container init-pytorch must set"),
        ({"initContainer.yaml": None}, "container init-pytorch must set"),
        ({"initContainer.yaml": "a: ["}, "the training operator cannot read it"),
        ({"initContainer.yaml": "a: 1"}, "the training operator cannot read it (it is no list of containers)"),
    ],
)
def test_a_template_that_does_not_cure_it_is_found(data: dict[str, Any], said: str) -> None:
    api = narrow(install())
    api.change(CONFIG_MAP, "kubeflow", "init", {"data": data})
    (found,) = find(api)
    assert found.code == "training-operator-settings"
    assert said in found.fault.what


def test_pods_that_are_refused_whatever_the_operator_does_are_the_profile_s_fault() -> None:
    profiles = usual_profiles()
    del container_of(profiles["train-2"])["securityContext"]
    api = install(profiles)
    set_operator(api)
    for found in (find(narrow(api)), find(Strict(_objects=api._objects))):
        assert codes(found) == ["pod-refused"]
        assert found[0].fault.where == "profile train-2"
