"""The charts, rendered by helm itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from k8s.local.tools import built
from tests.charts.places import CHART

RELEASE = "tandem"
NAMESPACE = "team-a"
Object = dict[str, Any]

CI = sorted((CHART / "ci").glob("*-values.yaml"))
EVERYTHING = CHART / "ci" / "everything-values.yaml"
MINIMAL: Mapping[str, Any] = {"store": {"url": "s3://bucket/prefix"}}


class Refused(Exception):
    """Helm does not take these values; its words."""


@dataclass(kw_only=True)
class Release:
    """What a chart makes of some values."""

    objects: tuple[Object, ...]

    def every(self, kind: str) -> dict[str, Object]:
        """All objects of a kind by name."""
        return {found["metadata"]["name"]: found for found in self.objects if found["kind"] == kind}

    def one(self, kind: str, name: str) -> Object:
        """The object of this kind and name."""
        return self.every(kind)[name]

    @cached_property
    def profiles(self) -> dict[str, Object]:
        """The profiles by name, as the controller reads them."""
        files: dict[str, str] = self.one("ConfigMap", f"{RELEASE}-profiles")["data"]
        return {name.removesuffix(".yaml"): yaml.load(text, Loader=yaml.CSafeLoader) for name, text in files.items()}

    def job(self, profile: str) -> Object:
        """The manifest of a profile."""
        found: Object = self.profiles[profile]["manifest"]
        return found

    def pod(self, profile: str) -> Object:
        """The pod spec of a profile; of the Master, where there are workers too."""
        found: Object = templates(self.job(profile))[0]["spec"]
        return found

    def container(self, profile: str) -> Object:
        """The container of a profile."""
        (found,) = self.pod(profile)["containers"]
        result: Object = found
        return result

    @property
    def controller(self) -> Object:
        """The controller's pod template."""
        found: Object = self.one("Deployment", f"{RELEASE}-controller")["spec"]["template"]
        return found

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Every container of every pod that comes of this release, with a name for messages."""
        for name, template in self.pods():
            for container in template["spec"]["containers"]:
                yield f"{name}/{container['name']}", container

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Every pod template that comes of this release, with a name for messages."""
        yield "controller", self.controller
        for name, found in self.every("Pod").items():
            yield name, found
        for name, found in self.every("CronJob").items():
            yield name, found["spec"]["jobTemplate"]["spec"]["template"]
        for name in self.profiles:
            for template in templates(self.job(name)):
                yield name, template


def templates(job: Object) -> list[Object]:
    """The pod templates of a Job or PyTorchJob, the Master's first."""
    spec = job["spec"]
    if job["kind"] == "Job":
        return [spec["template"]]
    return [
        spec["pytorchReplicaSpecs"][role]["template"]
        for role in ("Master", "Worker")
        if role in spec["pytorchReplicaSpecs"]
    ]


def environment(container: Object) -> dict[str, Any]:
    """Environment variables by name: the value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


def render(values: Mapping[str, Any], *, chart: Path = CHART, api_versions: Sequence[str] = ()) -> Release:
    """Render a chart. Raises Refused."""
    return _render(json.dumps(values), chart, tuple(api_versions))


def release_of(values: Path) -> Release:
    """What the chart makes of a file of values."""
    return render(yaml.safe_load(values.read_text(encoding="utf-8")))


@cache
def _render(values: str, chart: Path, api_versions: tuple[str, ...]) -> Release:
    capabilities = [option for version in api_versions for option in ("--api-versions", version)]
    text = run_helm(
        "template", RELEASE, str(chart), "--namespace", NAMESPACE, "--values", "-", *capabilities, given=values
    )
    return Release(objects=tuple(found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found))


def run_helm(*arguments: str, given: str | None = None) -> str:
    """What helm prints. Raises Refused."""
    answer = subprocess.run([_helm(), *arguments], input=given, text=True, capture_output=True, check=False)
    if answer.returncode:
        raise Refused(answer.stderr + answer.stdout)
    return answer.stdout


@cache
def _helm() -> str:
    return built("helm")["helm"]


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Values joined as helm joins them: maps key by key, everything else by the last that says something."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


def nested(path: str, value: Any) -> dict[str, Any]:
    """One value as helm --set takes it."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)
