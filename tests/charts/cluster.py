"""What the tests of the charts do with a real API server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from k8s.local.tools import built
from tests.charts.helm import Object, render
from tests.charts.places import CRD_CHART
from tests.cluster import ApiServer

OPERATOR = "training-operator"
TRIES = 200
"""Looks at definitions that come into force within a second; a look takes 0.1 s."""


class Denied(Exception):
    """The API server does not take it; its words."""


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A namespace of an API server that knows Runs and PyTorchJobs."""

    server: ApiServer
    name: str

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """What kubectl prints; objects are given as they are. Raises Denied."""
        text = None if given is None else json.dumps(given)
        try:
            return self.server.kubectl("--namespace", self.name, *arguments, given=text)
        except subprocess.CalledProcessError as error:
            raise Denied(error.stderr) from None

    def create(self, found: Object, *, dry: bool = False) -> Object:
        """Make an object, as strictly as our client does. Raises Denied."""
        options = ("--dry-run=server",) if dry else ()
        text = self.kubectl("create", "-f", "-", "--validate=strict", "-o", "json", *options, given=found)
        made: Object = json.loads(text)
        return made

    def get(self, *arguments: str) -> Object:
        """An object or a list of them as the server has it."""
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def try_pod(self, template: Mapping[str, Any], name: str) -> None:
        """Have the server admit a pod of this template, and throw it away. Raises Denied."""
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}}
        self.create({**pod, "spec": {"restartPolicy": "Never", **template["spec"]}}, dry=True)

    def may(self, who: str, verb: str, resource: str) -> bool:
        """Whether somebody (user or service account) may do this here; resources are written pods/log, jobs.batch."""
        from kubernetes import client

        path, _, group = resource.partition(".")
        kind, _, part = path.partition("/")
        asked = client.V1ResourceAttributes(
            namespace=self.name, verb=verb, resource=kind, subresource=part or None, group=group or None
        )
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(user=who, groups=["system:authenticated"], resource_attributes=asked)
        )
        api = client.AuthorizationV1Api(_client(self.server.kubeconfig))
        status = api.create_subject_access_review(review).status
        return status is not None and status.allowed


@cache
def _client(kubeconfig: Path) -> Any:
    from kubernetes import config

    return config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]


def teach(server: ApiServer) -> None:
    """Install the custom resources that the charts' objects are of; doing it again does no harm."""
    crds = operator_manifests() / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))
    objects = [*render({}, chart=CRD_CHART).objects, *map(_stand_in, ("ServiceMonitor", "PrometheusRule"))]
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))
    for _ in range(TRIES):
        listed = json.loads(server.kubectl("get", "crd", "-o", "json"))["items"]
        if all(_is_established(found) for found in listed):
            return
    raise TimeoutError("the custom resources were not established")


def _is_established(found: Object) -> bool:
    """Not asked by `kubectl wait`, which fails on a definition that has no conditions yet."""
    conditions = found.get("status", {}).get("conditions") or []
    return any((it["type"], it["status"]) == ("Established", "True") for it in conditions)


def operator_manifests() -> Path:
    """The training operator's kustomization, as its module has it."""
    return Path(f"{built(OPERATOR)[OPERATOR]}.manifests")


def _stand_in(kind: str) -> Object:
    """The Prometheus operator's resource by name and place only: what is in it is not checked."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
