"""The whole cluster of k8s/local, brought up once for all tests here; that it leaves nothing is seen at its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.local import cluster as local
from k8s.local import images, layout, machine, tools
from k8s.local.kubectl import KubectlFailed
from k8s.local.layout import Layout
from k8s.local.traces import traces
from tests.cluster import Cluster, local_cluster_running
from tests.servers import address_towards

COMMAND = (sys.executable, "-m", "k8s.local")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """Apart from what people have pushed to their cluster and pulled."""
    folder = tmp_path_factory.mktemp("cluster")
    yield Layout(folder=folder)
    shutil.rmtree(folder)  # a quarter of a gigabyte


@pytest.fixture(scope="module")
def running(folders: Layout) -> Iterator[Cluster]:
    with local_cluster_running(folders) as found:
        found.kubectl("create", "namespace", "tenant")
        found.kubectl("label", "namespace", "tenant", "pod-security.kubernetes.io/enforce=restricted")
        yield found
        first = local.first_process(folders)
        assert first is not None
        os.kill(first, signal.SIGKILL)  # the worst end that it can come to


@pytest.fixture(scope="module")
def image(running: Cluster) -> str:
    operator = tools.built("training-operator")["training-operator"]
    return images.push(images.archives(operator)[0], f"{running.registry}/tests/small:1")


def pod(image: str, script: str, *, container: str = "tandem", **more: Any) -> dict[str, Any]:
    command = {"command": ["sh", "-c", script], "securityContext": RESTRICTED}
    return {"restartPolicy": "Never", "containers": [{"name": container, "image": image, **command, **more}]}


def job(name: str, spec: dict[str, Any]) -> str:
    metadata = {"name": name, "namespace": "tenant"}
    body = {"backoffLimit": 0, "template": {"spec": spec}}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": body})


def pytorchjob(name: str, spec: dict[str, Any]) -> str:
    replica = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": spec}}
    body = {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}}
    metadata = {"name": name, "namespace": "tenant"}
    return json.dumps({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": body})


def wait_for(running: Cluster, condition: str, what: str) -> None:
    try:
        running.kubectl("wait", f"--for={condition}", what, "-n", "tenant", "--timeout=60s")
    except KubectlFailed as late:
        pods = running.kubectl("get", "pods", "-n", "tenant", "-o", "wide")
        raise AssertionError(f"{late}\n{pods}\n{running.kubectl('events', '-n', 'tenant')}") from late


def wait_until(done: Callable[[], bool]) -> None:
    while not done():
        pass


def test_a_restricted_job_runs_by_digest_and_sees_names_and_the_s3_server(running: Cluster, image: str) -> None:
    s3 = running.s3.endpoint.removeprefix("http://").replace(":", " ")
    script = f"getent hosts kubernetes.default.svc; getent hosts nowhere.example || echo none; nc {s3} && echo S3"
    resources = {"requests": {"ephemeral-storage": "1Mi"}}
    running.kubectl("apply", "-f", "-", given=job("one", pod(image, script, resources=resources)))
    wait_for(running, "condition=Complete", "job/one")
    log = running.kubectl("logs", "-n", "tenant", "job/one").splitlines()
    assert log[0].split() == ["10.96.0.1", "kubernetes.default.svc.cluster.local"]
    assert log[1:] == ["none", "S3"]


def test_a_pytorchjob_of_two_pods_runs_in_a_restricted_namespace(running: Cluster, image: str) -> None:
    script = """
    if [ $RANK = 0 ]; then nc -l -p $MASTER_PORT -e echo "rank 0 of $WORLD_SIZE"
    else until nc $MASTER_ADDR $MASTER_PORT; do sleep 0.1; done; echo "rank $RANK of $WORLD_SIZE"; fi
    """
    running.kubectl("apply", "-f", "-", given=pytorchjob("two", pod(image, script, container="pytorch")))
    wait_for(running, "condition=Succeeded", "pytorchjob/two")
    wait_for(running, "jsonpath={.status.phase}=Succeeded", "pod/two-worker-0")
    assert running.kubectl("logs", "-n", "tenant", "two-worker-0").splitlines()[-2:] == ["rank 0 of 2", "rank 1 of 2"]


def test_the_operators_webhook_refuses_what_it_cannot_run(running: Cluster, image: str) -> None:
    with pytest.raises(KubectlFailed) as refused:
        running.kubectl("apply", "-f", "-", given=pytorchjob("wrong", pod(image, "true")))
    assert "must have at least one container with name pytorch" in refused.value.stderr


def test_pods_get_the_gpus_that_the_node_says_it_has(running: Cluster, folders: Layout, image: str) -> None:
    local.set_gpus(folders, 2)
    for name, count in (("fits", 2), ("waits", 3)):
        resources = {"limits": {"nvidia.com/gpu": str(count)}}
        running.kubectl("apply", "-f", "-", given=job(name, pod(image, "true", resources=resources)))
    wait_for(running, "condition=Complete", "job/fits")
    reason = "jsonpath={.items[0].status.conditions[?(@.type=='PodScheduled')].message}"
    look = ("get", "pods", "-n", "tenant", "-l", "job-name=waits", "-o", reason)
    wait_until(lambda: "Insufficient nvidia.com/gpu" in running.kubectl(*look))


def test_the_s3_server_is_there_for_this_machine_too(running: Cluster) -> None:
    running.s3.client().create_bucket(Bucket="mine")
    running.s3.client().put_object(Bucket="mine", Key="a", Body=b"text")
    assert running.s3.client().get_object(Bucket="mine", Key="a")["Body"].read() == b"text"


def test_pods_see_this_machine_at_its_address_on_the_way_to_the_s3_server(running: Cluster) -> None:
    assert address_towards(running.s3.endpoint) == layout.HOST


def test_a_program_of_the_cluster_can_be_found_and_signalled_from_here(running: Cluster, folders: Layout) -> None:
    assert running.kubeconfig.exists()
    command = Path(f"/proc/{local.program_pid(folders, 'versitygw')}/cmdline").read_text().split("\0")
    assert Path(command[0]).name.startswith("versitygw-v")


def test_coming_up_twice_says_so_and_taking_it_from_its_user_is_refused(running: Cluster, folders: Layout) -> None:
    environment = {**os.environ, "TANDEM_CLUSTER_FOLDER": str(folders.folder)}
    up = subprocess.run([*COMMAND, "up"], env=environment, capture_output=True, text=True, check=False)
    assert (up.returncode, up.stderr) == (0, "The local cluster is up.\n")
    assert f"export TANDEM_E2E_REGISTRY={running.registry}" in up.stdout.splitlines()
    down = subprocess.run([*COMMAND, "down"], env=environment, capture_output=True, text=True, check=False)
    assert down.returncode == 78
    assert down.stderr == f"k8s.local: process {os.getpid()} uses the local cluster; wait until it has ended\n"


def test_a_running_cluster_has_traces_that_the_comparison_sees(running: Cluster, folders: Layout) -> None:
    assert running.kubeconfig.exists()
    found = traces(folders)
    assert f"network device {layout.INTERFACE}" in found
    assert {trace.split()[3] for trace in found if trace.startswith("process ")} >= {"kubelet-v1.36.3", "manager"}
    assert [trace for trace in found if trace.startswith("control group ") and trace.endswith(machine.CGROUP)]
    assert {f"folder {name}" for name in machine.MOUNTPOINTS} <= found
