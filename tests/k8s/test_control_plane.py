from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.local.kubectl import KubectlFailed
from k8s.local.processes import started_at
from tests.cluster import ApiServer

POD = {"restartPolicy": "Never", "containers": [{"name": "tandem", "image": "nowhere.invalid/image"}]}


def wait_for(look: Callable[[], bool]) -> None:
    """Controllers act when they act: ask them until they did."""
    while not look():
        pass


def job(name: str) -> str:
    spec = {"backoffLimit": 0, "template": {"spec": POD}}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    return json.dumps(manifest)


def items(server: ApiServer, kind: str, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(server.kubectl("get", kind, "-n", namespace, "-o", "json"))["items"]
    return found


def test_the_api_server_says_the_version_that_was_built(api_server: ApiServer) -> None:
    version = json.loads(api_server.kubectl("version", "-o", "json"))
    server = version["serverVersion"]
    assert (server["gitVersion"], server["major"], server["minor"]) == ("v1.36.3", "1", "36")
    assert version["clientVersion"]["gitVersion"] == "v1.36.3"


def test_controllers_make_the_pod_of_a_job(api_server: ApiServer) -> None:
    api_server.kubectl("create", "namespace", "controllers-work")
    api_server.kubectl("apply", "-n", "controllers-work", "-f", "-", given=job("one"))
    wait_for(lambda: bool(items(api_server, "pods", "controllers-work")))
    (pod,) = items(api_server, "pods", "controllers-work")
    assert pod["metadata"]["ownerReferences"][0]["name"] == "one"
    assert pod["status"]["phase"] == "Pending"


def test_pytorchjobs_are_known_by_the_training_operators_definition(api_server: ApiServer) -> None:
    api_server.install_pytorchjobs()
    names = api_server.kubectl("api-resources", "--api-group=kubeflow.org", "-o", "name").split()
    assert names == ["pytorchjobs.kubeflow.org"]


def test_the_restricted_pod_security_standard_is_enforced(api_server: ApiServer) -> None:
    api_server.kubectl("create", "namespace", "restricted")
    api_server.kubectl("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": POD}
    with pytest.raises(KubectlFailed) as refused:
        api_server.kubectl("apply", "-n", "restricted", "-f", "-", given=json.dumps(pod))
    assert 'violates PodSecurity "restricted:latest"' in refused.value.stderr


def test_a_python_client_finds_its_way_by_the_kubeconfig(api_server: ApiServer) -> None:
    from kubernetes import client, config

    with config.new_client_from_config(str(api_server.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        assert client.VersionApi(api).get_code().git_version == "v1.36.3"


def test_one_more_control_plane_by_command_goes_as_it_came(api_server: ApiServer, tmp_path: Path) -> None:
    def command(name: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "k8s.local", name, "--control-plane", str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, check=True)

    try:
        assert command("up").stdout == f"export KUBECONFIG={tmp_path / 'kubeconfig'}\n"
        second = ApiServer(kubeconfig=tmp_path / "kubeconfig")
        second.kubectl("create", "namespace", "of-the-second")
        assert "of-the-second" not in api_server.kubectl("get", "namespaces")
        assert command("up").stderr == "The control plane is up.\n"
        pids = [int(file.read_text().split()[0]) for file in (tmp_path / "pids").iterdir()]
        assert len(pids) == 3
    finally:
        command("down")
    assert not [pid for pid in pids if started_at(pid)]
    command("down")
