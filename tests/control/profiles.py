"""Profiles as a chart renders them, small."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tandem.control.profiles import SPEAKS

IMAGE = "registry.example/tandem-train@sha256:" + "a" * 64
POD_UID = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def pod(container: str, stage: str, *, gpus: int = 0) -> dict[str, Any]:
    """A pod template of a profile."""
    return {
        "metadata": {"labels": {"tandem.dev/profile": "of-a-test"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 360,
            "containers": [
                {
                    "name": container,
                    "image": IMAGE,
                    "args": ["stage", stage],
                    "env": [POD_UID, {"name": "AWS_REGION", "value": "us-east-1"}],
                    "resources": {"limits": {"nvidia.com/gpu": gpus}} if gpus else {},
                }
            ],
        },
    }


def train(*, ranks: int = 2) -> dict[str, Any]:
    """A PyTorchJob with one process a pod."""
    template = pod("pytorch", "train")
    del template["spec"]["restartPolicy"]
    replicas: dict[str, Any] = {"Master": {"replicas": 1, "restartPolicy": "Never", "template": template}}
    if ranks > 1:
        worker = copy.deepcopy(template)
        replicas["Worker"] = {"replicas": ranks - 1, "restartPolicy": "Never", "template": worker}
    return {
        "stage": "train",
        "default": True,
        "ranks": ranks,
        "gpus": 0,
        "speaks": SPEAKS,
        "manifest": {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "team"}},
            "spec": {
                "nprocPerNode": "1",
                "runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": replicas,
            },
        },
    }


def generate() -> dict[str, Any]:
    """An Indexed Job."""
    return {
        "stage": "generate",
        "default": True,
        "gpus": 1,
        "speaks": SPEAKS,
        "manifest": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {
                "completions": 1,
                "parallelism": 1,
                "completionMode": "Indexed",
                "backoffLimitPerIndex": 0,
                "podReplacementPolicy": "Failed",
                "template": pod("tandem", "generate", gpus=1),
            },
        },
    }


def endpoint() -> dict[str, Any]:
    """The same without GPU, with the key of the server that generates."""
    template = pod("tandem", "generate")
    template["spec"]["containers"][0]["env"].append({"name": "TANDEM_ENDPOINT_API_KEY", "value": "none"})
    made = generate()
    made["manifest"]["spec"]["template"] = template
    return {**made, "stage": "endpoint", "gpus": 0}


def score() -> dict[str, Any]:
    """A Job without GPU."""
    return {
        "stage": "score",
        "default": True,
        "gpus": 0,
        "speaks": SPEAKS,
        "manifest": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "spec": {"backoffLimit": 0, "template": pod("tandem", "score")},
        },
    }


def write_profiles(folder: Path, profiles: dict[str, dict[str, Any]] | None = None) -> Path:
    """A folder as the chart's ConfigMap is mounted; the three usual ones if nothing else is said."""
    chosen = profiles or {"train-2": train(), "generate-1": generate(), "score": score()}
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, profile in chosen.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(profile))
    return folder
