"""A value of the chart, and where a release shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.charts.helm import RELEASE, Object, Release, environment

Look = Callable[[Release], Any]

SCHEDULE = {
    "name": "nightly",
    "cron": "0 3 * * *",
    "run": {"apiVersion": "tandem.dev/v1alpha1", "kind": "Run", "spec": {"limit": None, "seed": 1}},
}
SCHEDULED: Mapping[str, Any] = {"schedules": [SCHEDULE]}
PEER = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
DIGEST = f"sha256:{'1' * 64}"
CONTROLLER = f"{RELEASE}-controller"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One value of the chart, and what a release has without it and with it."""

    path: str
    value: Any
    look: Look
    unset: Any
    set: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    """Other values without which this one has nothing to do."""


def same(values: list[Any]) -> Any:
    """The one value of all of them."""
    assert all(value == values[0] for value in values), values
    return values[0]


def in_workloads(look: Callable[[Release, str], Any]) -> Look:
    return lambda release: same([look(release, name) for name in release.profiles])


def env_of_workloads(name: str) -> Look:
    return in_workloads(lambda release, profile: environment(release.container(profile)).get(name))


def env_of_controller(name: str) -> Look:
    return lambda release: environment(release.controller["spec"]["containers"][0]).get(name)


def env_everywhere(name: str) -> Look:
    return lambda release: same([env_of_workloads(name)(release), env_of_controller(name)(release)])


def volume_of(spec: Object, name: str) -> Any:
    found = [volume for volume in spec.get("volumes", []) if volume["name"] == name]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    return {"at": mounts[name], **{key: value for key, value in found[0].items() if key != "name"}} if found else None


def volume_of_workloads(name: str) -> Look:
    return in_workloads(lambda release, profile: volume_of(release.pod(profile), name))


def in_pod(key: str, profile: str = "score") -> Look:
    return lambda release: release.pod(profile).get(key)


def in_container(key: str, profile: str = "score") -> Look:
    return lambda release: release.container(profile).get(key)


def in_job(*keys: Any, profile: str = "score") -> Look:
    return lambda release: dig(release.job(profile), *keys)


def in_controller(*keys: Any) -> Look:
    return lambda release: dig(release.controller, *keys)


def in_object(kind: str, name: str, *keys: Any) -> Look:
    """Something of an object; None where there is no such object."""
    return lambda release: dig(release.every(kind).get(name, {}), *keys)


def dig(found: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(key, int):
            found = found[key]
        elif found is not None:
            found = found.get(key)
    return found


def egress(policy: str, port: int) -> Look:
    """Where the rules of a policy with this one TCP port lead; None for anywhere, absent rules for []."""

    def look(release: Release) -> Any:
        rules = release.one("NetworkPolicy", f"{RELEASE}-{policy}")["spec"]["egress"]
        wanted = [{"port": port, "protocol": "TCP"}]
        return [rule.get("to") for rule in rules if rule.get("ports") == wanted]

    return look


def names(kind: str) -> Look:
    return lambda release: sorted(release.every(kind))


def exists(kind: str, name: str) -> Look:
    return lambda release: name in release.every(kind)


def ref(name: str, key: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


def image_of(what: str) -> Look:
    return lambda release: release.container(what)["image"]


def image_of_controller(release: Release) -> Any:
    return release.controller["spec"]["containers"][0]["image"]


def egress_ports(policy: str) -> Look:
    def look(release: Release) -> Any:
        rules = release.one("NetworkPolicy", f"{RELEASE}-{policy}")["spec"]["egress"]
        return sorted({port["port"] for rule in rules for port in rule.get("ports", [])})

    return look


def label(path: str, *, of: Look) -> Look:
    return lambda release: (of(release) or {}).get(path)
