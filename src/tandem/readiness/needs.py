"""What the pods of the chosen profiles refer to: Secrets, ConfigMaps, claims, accounts, and keys in variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.check.report import Collector
from tandem.control.api import CLAIM, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, Api, Kind, NotFound, Object
from tandem.control.manifest import pod_templates, stage_container
from tandem.control.profiles import Chosen
from tandem.readiness.access import add_unseen, may
from tandem.spec import JudgeKind, RunSpec

_SOURCES = (("secret", SECRET), ("configMap", CONFIG_MAP))


@dataclass(frozen=True, kw_only=True)
class Need:
    """An object that a pod cannot start without, and a key in it."""

    kind: Kind
    name: str
    key: str | None = None
    """None: no certain one."""


def check_needs(api: Api, namespace: str, chosen: Mapping[str, Chosen], findings: Collector) -> None:
    """Report objects that are not in the namespace, or lack a key; those that may not be looked at in one warning."""
    needed: dict[tuple[Kind, str], dict[str, set[str]]] = {}
    for one in chosen.values():
        for template in pod_templates(one.profile.manifest):
            for need in list_needs(template["spec"]):
                keys = needed.setdefault((need.kind, need.name), {}).setdefault(one.name, set())
                keys |= {need.key} if need.key is not None else set()
    unseen: list[str] = []
    for (kind, name), users in needed.items():
        if not may(api, "get", kind, namespace, name=name):
            unseen.append(f"{kind.kind} {name}")
            continue
        by = f"profile {', '.join(users)}"
        try:
            held = _keys(api.get(kind, namespace, name))
        except NotFound:
            _add(findings, kind, f"{namespace}/{name}", f"is not there, and the pods of {by} need it")
            continue
        for key in sorted(set().union(*users.values()) - held):
            _add(findings, kind, f"{namespace}/{name}", f"has no key {key}, and the pods of {by} need it")
    add_unseen(findings, unseen, namespace)


def list_needs(pod: Object) -> Iterator[Need]:
    """What a pod of this spec refers to and must have; what it calls optional is left out.

    Raises KeyError, TypeError or AttributeError if that is not a pod's spec.
    """
    for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
        for entry in container.get("env") or ():
            source = entry.get("valueFrom") or {}
            for word, kind in _SOURCES:
                yield from _need(kind, source.get(f"{word}KeyRef"), "name", key="key")
        for entry in container.get("envFrom") or ():
            for word, kind in _SOURCES:
                yield from _need(kind, entry.get(f"{word}Ref"), "name")
    for volume in pod.get("volumes") or ():
        yield from _need(SECRET, volume.get("secret"), "secretName")
        yield from _need(CONFIG_MAP, volume.get("configMap"), "name")
        yield from _need(CLAIM, volume.get("persistentVolumeClaim"), "claimName")
        for part in (volume.get("projected") or {}).get("sources") or ():
            for word, kind in _SOURCES:
                yield from _need(kind, part.get(word), "name")
    for entry in pod.get("imagePullSecrets") or ():
        yield from _need(SECRET, entry, "name")
    yield from _need(SERVICE_ACCOUNT, pod, "serviceAccountName")


def check_keys(spec: RunSpec, chosen: Mapping[str, Chosen], findings: Collector) -> None:
    """Report evaluations whose judge or endpoint needs a key that the pods of their profile are not given."""
    for evaluation in spec.evals:
        place = f"spec.evals[{evaluation.name}]"
        judge, endpoint = evaluation.judge, evaluation.endpoint
        if judge.kind is JudgeKind.OPENAI:
            values = "judge.existingSecret and judge.keys in the values of the chart tandem"
            _check_key(f"{place}.judge.keyEnv", judge.key_env, chosen.get("score"), values, findings)
        if endpoint is not None:
            values = "endpoint.existingSecret and endpoint.keys in the values of the chart tandem"
            _check_key(f"{place}.endpoint.keyEnv", endpoint.key_env, chosen.get("endpoint"), values, findings)


def _check_key(place: str, variable: str, chosen: Chosen | None, values: str, findings: Collector) -> None:
    if chosen is None:
        return
    manifest = chosen.profile.manifest
    for template in pod_templates(manifest):
        container = stage_container(manifest, template)
        named = {entry["name"] for entry in container.get("env") or ()}
        # Which variables envFrom brings is known to the cluster alone.
        if variable not in named and not container.get("envFrom"):
            findings.add(
                "key-missing",
                where=place,
                what=f"the pods of profile {chosen.name} are not given the variable {variable}",
                remedy=f"Have the platform team set {values}.",
            )


def _need(kind: Kind, source: Mapping[str, Any] | None, name: str, *, key: str | None = None) -> Iterator[Need]:
    if source and source.get(name) and not source.get("optional"):
        found, held = source[name], source.get(key) if key is not None else None
        if not isinstance(found, str) or not isinstance(held, str | None):
            raise TypeError(f"{kind.kind} {found!r}, key {held!r}: no text")
        yield Need(kind=kind, name=found, key=held)


def _keys(found: Object) -> set[str]:
    return {key for part in ("data", "binaryData") for key in found.get(part) or ()}


def _add(findings: Collector, kind: Kind, place: str, what: str) -> None:
    remedy = "Create it, or have the platform team name another in the values of the chart tandem."
    findings.add(f"{kind.kind.lower()}-missing", where=f"{kind.kind} {place}", what=what, remedy=remedy)
