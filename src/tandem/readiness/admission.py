"""Whether the cluster admits the pods of the chosen profiles, and those that the training operator adds to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tandem.check.report import Collector, Severity
from tandem.control.api import POD, Api, Busy, Forbidden, Object, Refused
from tandem.control.profiles import ADMIN, Chosen
from tandem.readiness.access import add_unseen, may
from tandem.readiness.installation import OPERATOR_REMEDY

ENFORCE = "pod-security.kubernetes.io/enforce"

Admit = Callable[[Object], str | None]
"""Takes a pod; why it is refused, or None."""


def choose_admission(api: Api, namespace: str, labels: Mapping[str, str] | None, findings: Collector) -> Admit | None:
    """How to find out whether the namespace, which has these labels, admits a pod; None: nothing can be found out.

    The server is asked by a dry run. Of those who may not make pods, the labels are: where they enforce the restricted
    Pod Security Standard, what that demands of containers is looked for here.
    """
    if may(api, "create", POD, namespace):

        def ask(pod: Object) -> str | None:
            return _ask_server(api, namespace, pod, findings)

        return ask
    if labels is None:
        add_unseen(findings, ["whether its pods must keep a Pod Security Standard"], namespace)
        return None
    return _look_for_violations if labels.get(ENFORCE) == "restricted" else None


def check_admission(admit: Admit, chosen: Mapping[str, Chosen], added: Sequence[Object], findings: Collector) -> None:
    """Report pods that would be refused; `added` are the containers that the operator puts before a worker's."""
    for one in chosen.values():
        said = {why for pod in list_pods(one) if (why := admit(pod)) is not None}
        for why in sorted(said):
            findings.add("pod-refused", where=f"profile {one.name}", what=f"its pods are refused ({why})", remedy=ADMIN)
        worker = _worker(one)
        if said or worker is None or not added:
            continue
        containers = [*(worker["spec"].get("initContainers") or ()), *added]
        why = admit({**worker, "spec": {**worker["spec"], "initContainers": containers}})
        if why is not None:
            findings.add(
                "training-operator-settings",
                where=f"profile {one.name}",
                what=f"its workers are refused with the container that the training operator puts before them ({why})",
                remedy=OPERATOR_REMEDY,
            )


def list_pods(chosen: Chosen) -> list[Object]:
    """One pod of each kind that a profile's job makes."""
    spec: dict[str, Any] = chosen.profile.manifest["spec"]
    replicas = spec.get("pytorchReplicaSpecs")
    templates = [spec["template"]] if replicas is None else [replica["template"] for replica in replicas.values()]
    return [_pod(chosen.name, template) for template in templates]


def find_violations(pod: Object) -> Iterator[str]:
    """What the restricted standard demands of a pod's containers, and they do not say.

    What it forbids them to say (host namespaces, added capabilities and more) is not looked for.
    """
    common = pod.get("securityContext") or {}
    for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
        own = container.get("securityContext") or {}
        name = container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"container {name} must set securityContext.allowPrivilegeEscalation=false"
        if "ALL" not in ((own.get("capabilities") or {}).get("drop") or ()):
            yield f"container {name} must set securityContext.capabilities.drop=[ALL]"
        if own.get("runAsNonRoot", common.get("runAsNonRoot")) is not True:
            yield f"container {name} must set securityContext.runAsNonRoot=true"
        profile = own.get("seccompProfile") or common.get("seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"container {name} must set securityContext.seccompProfile.type=RuntimeDefault"


def _look_for_violations(pod: Object) -> str | None:
    return "; ".join(find_violations(pod["spec"])) or None


def _ask_server(api: Api, namespace: str, pod: Object, findings: Collector) -> str | None:
    try:
        api.create(POD, namespace, pod, dry_run=True)
    except (Forbidden, Refused) as error:
        return error.faults[0].what
    except Busy as error:  # a full quota: the pod waits for its turn
        findings.take("pod-waits", error.faults, cause="unavailable", severity=Severity.WARNING)
    return None


def _worker(chosen: Chosen) -> Object | None:
    replicas = chosen.profile.manifest["spec"].get("pytorchReplicaSpecs") or {}
    return _pod(chosen.name, replicas["Worker"]["template"]) if "Worker" in replicas else None


def _pod(profile: str, template: Mapping[str, Any]) -> Object:
    metadata = {**(template.get("metadata") or {}), "name": f"{profile}-check"}
    return {"metadata": metadata, "spec": {"restartPolicy": "Never", **template["spec"]}}
