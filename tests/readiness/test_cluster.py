"""Everything that a cluster lacks for a Run is found at once, each with its place and what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.check import Finding, Severity
from tandem.control.api import (
    CONFIG_MAP,
    DEPLOYMENT,
    LOCAL_QUEUE,
    NAMESPACE,
    POD,
    RUN,
    SECRET,
    Busy,
    Forbidden,
    Kind,
    Object,
    Refused,
)
from tandem.control.fake import FakeApi
from tandem.errors import BadConfiguration, Fault, TandemError
from tests.control.profiles import endpoint, train
from tests.control.world import SPEC
from tests.readiness.installed import (
    TEAM,
    check,
    codes,
    container_of,
    find,
    install,
    pod_of,
    put_profiles,
    usual_profiles,
)

OPENAI = {"kind": "openai", "baseUrl": "https://judge.example", "model": "judge-1"}
EVALS_ONLY = {
    "model": SPEC["model"],
    "evals": [{"name": "base", "of": "base", "data": "s3://b/e.json", "tiles": {"max": 2}}],
}


def fails(verb: str, kind: Kind, error: TandemError) -> Callable[[str, Kind, str], None]:
    def before(asked: str, of: Kind, name: str) -> None:
        if (asked, of) == (verb, kind):
            raise error

    return before


def fault(what: str) -> Fault:
    return Fault(where="Run team/demo", what=what, remedy="Mend it.")


def only(findings: list[Finding]) -> Finding:
    (found,) = findings
    return found


def test_a_cluster_that_lacks_nothing_is_described() -> None:
    report = check(install())
    assert codes(list(report.findings)) == ["not-looked-at"]
    assert report.findings[0].severity is Severity.WARNING
    assert report.findings[0].fault.where == "spec.model.source, spec.train.meta, spec.evals[adapter].data"
    assert report.facts == {
        "namespace": TEAM,
        "run": "not there yet",
        "controller": "tandem-controller 1.2.3",
        "profiles": {
            "generate": {"generate-1": "1 GPU (default)"},
            "score": {"score": "0 GPUs (default)"},
            "train": {"train-2": "2 ranks on 0 GPUs (default)"},
        },
    }


def test_looking_makes_nothing_and_changes_nothing() -> None:
    api = install()
    before = copy.deepcopy(api._objects)
    check(api)
    assert api._objects == before
    assert {verb for verb, _, _ in api.calls} <= {"get", "list", "create"}


def without(kind: Kind, namespace: str | None, name: str) -> Callable[[FakeApi], None]:
    return lambda api: api.delete(kind, namespace, name)


def unknown(plural: str) -> Callable[[FakeApi], None]:
    def change(api: FakeApi) -> None:
        api.unknown = frozenset({plural})

    return change


def patched(kind: Kind, namespace: str | None, name: str, patch: Object) -> Callable[[FakeApi], None]:
    def change(api: FakeApi) -> None:
        api.change(kind, namespace, name, patch)

    return change


INACTIVE = {"status": {"conditions": [{"type": "Active", "status": "False", "message": "no ClusterQueue big"}]}}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (without(NAMESPACE, None, TEAM), "namespace-missing", "namespace team: is not there. Choose another one"),
        (unknown("runs"), "run-kind-missing", "it knows no Run of tandem.dev/v1alpha1"),
        (unknown("pytorchjobs"), "training-operator-missing", "its job is a PyTorchJob of kubeflow.org/v1"),
        (without(DEPLOYMENT, TEAM, "tandem-controller"), "controller-missing", "no controller serves it"),
        (
            patched(DEPLOYMENT, TEAM, "tandem-controller", {"status": {"availableReplicas": 0}}),
            "controller-not-ready",
            "kubectl -n team describe deployment tandem-controller",
        ),
        (without(CONFIG_MAP, TEAM, "tandem-profiles"), "profiles-missing", "there are no profiles in it"),
        (
            lambda api: put_profiles(api, usual_profiles(), "other-profiles"),
            "profiles-missing",
            "several releases have profiles in it (other-profiles, tandem-profiles)",
        ),
        (
            patched(CONFIG_MAP, TEAM, "tandem-profiles", {"data": {"more.yaml": "a: ["}}),
            "profile-unusable",
            "more.yaml: is not YAML",
        ),
        (without(LOCAL_QUEUE, TEAM, "team"), "queue-missing", "there is no LocalQueue team in namespace team"),
        (patched(LOCAL_QUEUE, TEAM, "team", INACTIVE), "queue-inactive", "it admits nothing now (no ClusterQueue big)"),
        (unknown("localqueues"), "kueue-missing", "names the queue team, and the cluster knows no LocalQueue"),
        (
            without(DEPLOYMENT, "kubeflow", "training-operator"),
            "training-operator-missing",
            "nobody acts on PyTorchJobs",
        ),
        (
            patched(DEPLOYMENT, "kubeflow", "training-operator", {"status": {"availableReplicas": None}}),
            "training-operator-not-ready",
            "the training operator is not ready",
        ),
    ],
)
def test_what_is_not_installed_is_found_alone(change: Callable[[FakeApi], None], code: str, said: str) -> None:
    api = install()
    change(api)
    found = only(find(api))
    assert found.code == code
    assert said in str(found.fault)


def test_a_run_that_does_not_train_needs_no_training_operator() -> None:
    api = install()
    api.unknown = frozenset({"pytorchjobs"})
    api.delete(DEPLOYMENT, "kubeflow", "training-operator")
    assert find(api, EVALS_ONLY) == []


def test_an_operator_elsewhere_is_found_by_its_label() -> None:
    api = install()
    moved = api.get(DEPLOYMENT, "kubeflow", "training-operator")
    api.delete(DEPLOYMENT, "kubeflow", "training-operator")
    moved["metadata"]["name"] = "kubeflow-training-operator"
    api.create(DEPLOYMENT, "apps", moved)
    found = only(find(api))
    assert (found.code, found.severity) == ("not-looked-at", Severity.WARNING)
    assert "the training operator's settings (configmap init)" in found.fault.what
    api.create(CONFIG_MAP, "apps", {**api.get(CONFIG_MAP, "kubeflow", "init")})
    assert find(api) == []


def test_what_is_away_is_another_exit_code_than_what_is_wrong() -> None:
    api = install()
    api.change(DEPLOYMENT, TEAM, "tandem-controller", {"status": {"availableReplicas": 0}})
    assert [one.cause for one in find(api)] == ["unavailable"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Busy(Fault(where="namespaces", what="the cluster cannot be reached", remedy="Wait.")), "unavailable"),
        (BadConfiguration(Fault(where="namespaces", what="not logged in", remedy="Log in.")), "configuration"),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_one_line(error: TandemError, cause: str) -> None:
    api = install()
    api.before = fails("get", NAMESPACE, error)
    found = only(find(api))
    assert (found.code, found.cause) == ("cluster-unusable", cause)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"profiles": {"train": "nowhere"}}, "spec.profiles.train: nowhere is not a profile here"),
        ({"profiles": {"score": "train-2"}}, "spec.profiles.score: train-2 is a profile for train"),
        ({"train": {**SPEC["train"], "ranks": 1}}, "spec.train.ranks: is 1, and profile train-2 trains on 2"),
    ],
)
def test_a_profile_that_does_not_fit_is_found(spec: dict[str, Any], said: str) -> None:
    found = only(find(install(), {**SPEC, **spec}))
    assert found.code == "profile-unfit"
    assert said in str(found.fault)


def test_an_image_by_tag_is_found_where_digests_are_demanded_and_its_pods_are_looked_at_all_the_same() -> None:
    profiles = usual_profiles()
    profiles["score"]["requireDigest"] = True
    container_of(profiles["score"])["image"] = "registry.example/tandem-eval:latest"
    container_of(profiles["score"])["envFrom"] = [{"secretRef": {"name": "keys"}}]
    found = find(install(profiles))
    assert codes(found) == ["profile-unfit", "secret-missing"]
    assert "tandem-eval:latest has no digest" in found[0].fault.what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("env", "envFrom", "volumes", "imagePullSecrets", "serviceAccountName", "securityContext", "labels", "valueFrom")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [place for _, inner in items for place in places(inner)]


@given(st.data())
@settings(max_examples=60)
def test_whatever_stands_in_a_profile_is_an_answer_and_no_traceback(data: st.DataObject) -> None:
    profiles = usual_profiles()
    for key in KEYS:
        for holder in (container_of(profiles["score"]), pod_of(profiles["score"])):
            holder.setdefault(key, None)
    holder, key = data.draw(st.sampled_from(places(profiles)))
    holder[key] = data.draw(JSON)
    api = install(profiles)
    api.forbidden = frozenset({("create", "pods")})
    assert "cluster-unusable" not in codes(find(api, judged()))


def reference(**source: Any) -> dict[str, Any]:
    return {"name": "A", "valueFrom": source}


@pytest.mark.parametrize(
    ("part", "given", "said"),
    [
        ("env", reference(secretKeyRef={"name": "s3", "key": "id"}), "Secret team/s3: is not there"),
        ("env", reference(configMapKeyRef={"name": "c", "key": "id"}), "ConfigMap team/c: is not there"),
        ("env", reference(secretKeyRef={"name": "has-id", "key": "key"}), "Secret team/has-id: has no key key"),
        ("envFrom", {"configMapRef": {"name": "c"}}, "ConfigMap team/c: is not there"),
        ("volumes", {"secret": {"secretName": "ca"}}, "Secret team/ca: is not there"),
        ("volumes", {"configMap": {"name": "ca"}}, "ConfigMap team/ca: is not there"),
        (
            "volumes",
            {"persistentVolumeClaim": {"claimName": "models"}},
            "PersistentVolumeClaim team/models: is not there",
        ),
        ("volumes", {"projected": {"sources": [{"secret": {"name": "p"}}]}}, "Secret team/p: is not there"),
        ("imagePullSecrets", {"name": "registry"}, "Secret team/registry: is not there"),
        ("serviceAccountName", "tandem-eval", "ServiceAccount team/tandem-eval: is not there"),
        ("env", reference(secretKeyRef={"name": "s3", "key": "id", "optional": True}), None),
        ("env", reference(secretKeyRef={"name": "has-id", "key": "id"}), None),
        ("volumes", {"emptyDir": {}}, None),
    ],
)
def test_what_pods_refer_to_must_be_there(part: str, given: Any, said: str | None) -> None:
    profiles = usual_profiles()
    holder = container_of(profiles["score"]) if part.startswith("env") else pod_of(profiles["score"])
    holder[part] = given if isinstance(given, str) else [*holder.get(part, []), given]
    api = install(profiles)
    api.create(SECRET, TEAM, {"metadata": {"name": "has-id"}, "data": {"id": "c2VjcmV0"}})
    found = find(api)
    if said is None:
        assert found == []
    else:
        assert said in str(only(found).fault)
        assert "profile score" in only(found).fault.what
        assert "c2VjcmV0" not in str(only(found).fault)


def test_secrets_that_may_not_be_read_are_one_warning() -> None:
    profiles = usual_profiles()
    container_of(profiles["score"])["envFrom"] = [{"secretRef": {"name": name}} for name in ("a", "b")]
    api = install(profiles)
    api.forbidden = frozenset({("get", "secrets")})
    found = only(find(api))
    assert (found.code, found.severity) == ("not-looked-at", Severity.WARNING)
    assert "you may not look at Secret a, Secret b" in found.fault.what


def judged(**more: Any) -> dict[str, Any]:
    return {**SPEC, "evals": [{**SPEC["evals"][0], "judge": OPENAI, **more}]}


def test_a_judge_without_a_key_is_found_unless_the_pods_may_get_one() -> None:
    profiles = usual_profiles()
    found = only(find(install(profiles), judged()))
    assert found.code == "key-missing"
    assert "profile score are not given the variable TANDEM_JUDGE_API_KEY" in found.fault.what
    assert "judge.existingSecret" in found.fault.remedy
    container_of(profiles["score"])["env"].append({"name": "TANDEM_JUDGE_API_KEY", "value": "x"})
    assert find(install(profiles), judged()) == []
    del container_of(profiles["score"])["env"][-1]
    container_of(profiles["score"])["envFrom"] = [{"secretRef": {"name": "keys", "optional": True}}]
    assert find(install(profiles), judged()) == []


def test_an_endpoint_without_a_key_is_found() -> None:
    server = {"baseUrl": "http://vllm:8000/v1", "model": "m"}
    spec = {**EVALS_ONLY, "evals": [{"name": "base", "of": "base", "data": "s3://b/e.json", "endpoint": server}]}
    assert "there is no profile for endpoint" in only(find(install(), spec)).fault.what
    profiles = usual_profiles(asks=endpoint())
    assert find(install(profiles), spec) == []
    del container_of(profiles["asks"])["env"][-1]
    found = only(find(install(profiles), spec))
    assert found.fault.where == "spec.evals[base].endpoint.keyEnv"
    assert "profile asks are not given the variable TANDEM_ENDPOINT_API_KEY" in found.fault.what
    assert "endpoint.existingSecret" in found.fault.remedy


@pytest.mark.parametrize(
    ("forbidden", "severity", "said"),
    [
        ({("create", "runs")}, Severity.FAULT, "you may not create runs"),
        ({("get", "runs"), ("watch", "runs")}, Severity.FAULT, "you may not get runs"),
        ({("patch", "runs"), ("list", "runs")}, Severity.WARNING, "you may not list, patch runs"),
        ({("get", "pods/log")}, Severity.WARNING, "you may not get pods/log"),
        ({("list", "deployments")}, Severity.WARNING, "you may not look at the controller (deployments)"),
        ({("list", "configmaps")}, Severity.WARNING, "you may not look at profiles (configmaps)"),
        ({("list", "localqueues")}, Severity.WARNING, "you may not look at queues (localqueues)"),
    ],
)
def test_missing_permissions_are_found(forbidden: set[tuple[str, str]], severity: Severity, said: str) -> None:
    api = install()
    api.forbidden = frozenset(forbidden)
    found = [one for one in find(api) if said in one.fault.what]
    assert only(found).severity is severity


def test_whom_nothing_is_permitted_still_gets_every_answer_that_needs_no_permission() -> None:
    api = install()
    everything = ("runs", "pods", "pods/log", "namespaces", "secrets", "configmaps", "deployments", "localqueues")
    api.forbidden = frozenset((verb, one) for verb in ("get", "list", "watch", "create", "patch") for one in everything)
    api.unknown = frozenset({"runs"})
    assert codes(find(api)) == ["run-kind-missing", *["not-permitted"] * 4, *["not-looked-at"] * 2]


def test_the_same_run_that_is_there_already_is_no_fault() -> None:
    api = install()
    api.create(RUN, TEAM, {"metadata": {"name": "demo"}, "spec": {**SPEC, "desired": "Suspended"}})
    api.change(RUN, TEAM, "demo", {"status": {"phase": "Suspended"}})
    report = check(api)
    assert report.facts["run"] == "there already, Suspended"
    assert find(api) == []


def test_another_spec_under_the_same_name_is_found() -> None:
    api = install()
    api.create(RUN, TEAM, {"metadata": {"name": "demo"}, "spec": {**SPEC, "seed": 7}})
    found = only(find(api))
    assert found.code == "name-taken"
    assert "is there already, with another spec" in found.fault.what


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Refused(fault('is refused (unknown field "spec.nope")')), "configuration"),
        (Forbidden(fault("is not permitted (a webhook says no)")), "configuration"),
        (Busy(fault("exceeded quota: count/runs.tandem.dev")), "unavailable"),
    ],
)
def test_a_run_that_the_server_does_not_take_is_found(error: TandemError, cause: str) -> None:
    api = install()
    api.before = fails("create", RUN, error)
    found = only(find(api))
    assert (found.code, found.cause) == ("run-refused", cause)
    assert found.fault.what == error.faults[0].what


def test_paths_of_this_machine_are_found_all_at_once() -> None:
    spec = {
        **SPEC,
        "model": {"source": "demo/base"},
        "train": {**SPEC["train"], "meta": "demo/train.meta.json"},
        "evals": [{**SPEC["evals"][0], "images": "demo/images"}],
    }
    found = find(install(), spec)
    assert {one.code for one in found} == {"input-unreachable"}
    assert [one.fault.where for one in found] == [
        "spec.model.source: demo/base",
        "spec.train.meta: demo/train.meta.json",
        "spec.evals[adapter].images: demo/images",
    ]
    assert all("tandem push FILE" in one.fault.remedy for one in found)


def test_a_model_of_the_hub_needs_a_commit() -> None:
    model = {"source": "OpenGVLab/InternVL3-1B-hf", "revision": "main"}
    assert "is no commit of 40 hex digits" in only(find(install(), {**SPEC, "model": model})).fault.what
    assert find(install(), {**SPEC, "model": {**model, "revision": "a" * 40}}) == []


def test_all_that_is_wrong_is_named_in_one_go() -> None:
    profiles = usual_profiles()
    profiles["train-2"] = train()
    container_of(profiles["score"])["env"].append(reference(secretKeyRef={"name": "s3", "key": "id"}))
    api = install(profiles)
    api.forbidden = frozenset({("patch", "runs"), ("create", "pods")})
    api.delete(DEPLOYMENT, TEAM, "tandem-controller")
    api.delete(LOCAL_QUEUE, TEAM, "team")
    api.create(RUN, TEAM, {"metadata": {"name": "demo"}, "spec": {**SPEC, "seed": 7}})
    spec = {**judged(), "model": {"source": "here"}, "profiles": {"generate": "nowhere"}}
    assert codes(find(api, spec)) == [
        "input-unreachable",
        "not-permitted",
        "name-taken",
        "controller-missing",
        "profile-unfit",
        "secret-missing",
        "key-missing",
        "queue-missing",
        "pod-refused",
    ]


def test_a_full_quota_is_a_warning_for_pods_wait() -> None:
    api = install()
    api.before = fails("create", POD, Busy(fault("exceeded quota: gpus")))
    found = find(api)
    assert set(codes(found)) == {"pod-waits"}
    assert {one.severity for one in found} == {Severity.WARNING}
