"""`tandem check --cluster` as a user types it, with clusters that cannot be asked; tests/charts has real ones."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.desk import Answer, Desk
from tests.e2e.small import write_small_run
from tests.servers import S3Server

AWAY, WRONG = 75, 78
JUDGED = "judge: {kind: openai, baseUrl: 'http://127.0.0.1:9/v1', model: m}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, moto_server: S3Server) -> Desk:
    """With a bucket, a Run whose inputs are files, and the same one pushed."""
    folder = tmp_path_factory.mktemp("desk")
    file = write_small_run(folder)
    file.write_text(file.read_text().replace("      bertScore: null", f"      bertScore: null\n      {JUDGED}"))
    moto_server.client().create_bucket(Bucket="check")
    desk = Desk(folder=folder, extra=moto_server.environment())
    pushed = desk.tandem("push", "small.yaml", "--store", "s3://check/e2e")
    assert pushed.code == 0, pushed.err
    (folder / "pushed.yaml").write_text(pushed.out)
    return desk


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig that leads to a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        user: dict[str, Any] = {"name": "u", "user": {"token": "t"}}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{held.getsockname()[1]}"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "mine"}}
        whole = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **whole}))
        yield path


def faults(answer: Answer) -> list[str]:
    return [line for line in answer.err.splitlines() if line.startswith("fault: ")]


def test_a_cluster_that_is_away_is_one_line_and_may_be_tried_again(desk: Desk, nowhere: Path) -> None:
    answer = desk.tandem("check", "pushed.yaml", "--cluster", "--kubeconfig", str(nowhere))
    assert answer.code == AWAY
    (line,) = faults(answer)
    assert "the cluster cannot be reached" in line
    assert "warning: spec.model.source, spec.evals[base].data: whether the store holds these was not" in answer.err
    assert "not ready" in answer.out


def test_a_kubeconfig_that_is_not_there_is_one_line(desk: Desk) -> None:
    answer = desk.tandem("check", "pushed.yaml", "--kubeconfig", "nowhere.yaml")
    assert answer.code == WRONG
    (line,) = faults(answer)
    assert "--kubeconfig" in line


def test_files_of_this_machine_are_looked_at_and_must_be_pushed(desk: Desk, nowhere: Path) -> None:
    answer = desk.tandem("check", "small.yaml", "-n", "team", "--kubeconfig", str(nowhere), "--json")
    assert answer.code == WRONG
    report = json.loads(answer.out)
    in_yaml = desk.tandem("check", "small.yaml", "-n", "team", "--kubeconfig", str(nowhere), "-o", "yaml")
    assert (in_yaml.code, yaml.safe_load(in_yaml.out)) == (WRONG, report)
    found = {finding["code"]: finding for finding in report["findings"]}
    assert set(found) == {"input-unreachable", "cluster-unusable"}, "keys of this machine are none of the cluster's"
    assert "tandem push FILE" in found["input-unreachable"]["remedy"]
    assert found["cluster-unusable"]["where"] == "Namespace team"
    assert report["facts"]["evals"]["base"]["samples"] == 3


def test_inputs_in_a_store_are_looked_for_there_if_one_may(desk: Desk, nowhere: Path, tmp_path: Path) -> None:
    options = ("--store", "s3://check/e2e", "--kubeconfig", str(nowhere))
    answer = desk.tandem("check", "pushed.yaml", *options)
    assert "warning" not in answer.err
    assert len(faults(answer)) == 1
    run = yaml.safe_load((desk.folder / "pushed.yaml").read_text())
    run["spec"]["model"]["source"] = "s3://check/e2e/inputs/sha256/nowhere"
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(run))
    answer = desk.tandem("check", str(tmp_path / "lost.yaml"), *options)
    assert answer.code == WRONG
    assert "s3://check/e2e/inputs/sha256/nowhere: has no manifest.json at or above it" in faults(answer)[0]


def test_a_name_that_no_job_could_have_is_found_in_the_file(desk: Desk, nowhere: Path, tmp_path: Path) -> None:
    run = yaml.safe_load((desk.folder / "pushed.yaml").read_text())
    run["metadata"]["name"] = "a" * 60
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(run))
    answer = desk.tandem("check", str(tmp_path / "long.yaml"), "--cluster", "--kubeconfig", str(nowhere))
    assert answer.code == WRONG
    (line,) = faults(answer)
    assert "metadata.name" in line
    assert "at most 30" in line
