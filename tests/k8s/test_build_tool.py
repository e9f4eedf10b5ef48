from __future__ import annotations

import subprocess

from k8s.local.tools import HERE


def test_an_unknown_tool_is_refused_with_those_that_there_are() -> None:
    answer = subprocess.run([HERE / "build-tool", "kubelett"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (78, "")
    assert answer.stderr == (
        "build-tool: there is no tool 'kubelett'. Known tools: coredns etcd helm kube-apiserver "
        "kube-controller-manager kube-proxy kube-scheduler kubectl kubelet registry training-operator versitygw\n"
    )


def test_what_is_built_already_is_named_in_the_order_asked_for() -> None:
    answer = subprocess.run([HERE / "build-tool", "kubectl", "etcd"], capture_output=True, text=True, check=True)
    assert [line.rpartition("/")[2] for line in answer.stdout.splitlines()] == ["kubectl-v1.36.3", "etcd-v3.6.5"]
