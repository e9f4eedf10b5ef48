from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.local import control_plane
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


def test_the_restricted_pod_security_standard_is_enforced(api_server: ApiServer) -> None:
    api_server.kubectl("create", "namespace", "restricted")
    api_server.kubectl("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": POD}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        api_server.kubectl("apply", "-n", "restricted", "-f", "-", given=json.dumps(pod))
    assert 'violates PodSecurity "restricted:latest"' in refused.value.stderr


def test_a_python_client_finds_its_way_by_the_kubeconfig(api_server: ApiServer) -> None:
    from kubernetes import client, config

    with config.new_client_from_config(str(api_server.kubeconfig)) as api:  # type: ignore[no-untyped-call]
        assert client.VersionApi(api).get_code().git_version == "v1.36.3"


def test_two_control_planes_live_side_by_side_and_leave_nothing(api_server: ApiServer, tmp_path: Path) -> None:
    with control_plane.running(tmp_path) as second:
        second.run_kubectl("create", "namespace", "of-the-second")
        assert "of-the-second" not in api_server.kubectl("get", "namespaces")
        pids = [file.read_text().split()[0] for file in (tmp_path / "pids").iterdir()]
        assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
