"""What the platform team has installed: the custom resource, the training operator's, a controller."""

from __future__ import annotations

from tandem.check.report import Collector
from tandem.control.api import DEPLOYMENT, JOB_KINDS, RUN, Api, Forbidden, Object, list_all
from tandem.control.names import COMPONENT, PART_OF
from tandem.control.profiles import Chosen
from tandem.readiness.access import add_unseen

INSTALL = "Have the platform team install the chart tandem in this namespace, or choose another one with -n."
OPERATOR_REMEDY = "Have the platform team install Kubeflow's training operator 1.9 with k8s/training-operator."


def is_available(deployment: Object) -> bool:
    """Whether a Deployment has a pod that is ready."""
    return bool((deployment.get("status") or {}).get("availableReplicas"))


def check_run_kind(api: Api, findings: Collector) -> bool:
    """Whether the cluster knows Runs; it is reported if not."""
    if api.serves(RUN):
        return True
    findings.add(
        "run-kind-missing",
        where="cluster",
        what=f"it knows no {RUN.kind} of {RUN.api_version}",
        remedy="Have the platform team install the chart tandem-crds.",
    )
    return False


def check_job_kind(api: Api, chosen: Chosen, findings: Collector) -> bool:
    """Whether the cluster knows the kind of job that trains; it is reported if not."""
    kind = JOB_KINDS[chosen.profile.manifest["kind"]]
    if api.serves(kind):
        return True
    findings.add(
        "training-operator-missing",
        where=f"profile {chosen.name}",
        what=f"its job is a {kind.kind} of {kind.api_version}, which the cluster does not know",
        remedy=OPERATOR_REMEDY,
    )
    return False


def check_controller(api: Api, namespace: str, findings: Collector) -> str | None:
    """Report a namespace that no controller serves; the controller in words."""
    try:
        found, _ = list_all(api, DEPLOYMENT, namespace, selector=select("controller"))
    except Forbidden:
        add_unseen(findings, ["the controller (deployments)"], namespace)
        return None
    if not found:
        findings.add(
            "controller-missing", where=f"namespace {namespace}", what="no controller serves it", remedy=INSTALL
        )
        return None
    if any(is_available(one) for one in found):
        return ", ".join(_describe(one) for one in found)
    name = found[0]["metadata"]["name"]
    findings.add(
        "controller-not-ready",
        where=f"deployment {namespace}/{name}",
        what="the controller is not ready, so nothing will begin",
        remedy=f"See `kubectl -n {namespace} describe deployment {name}` and its log.",
        cause="unavailable",
    )
    return None


def select(component: str) -> str:
    """Selects a part of the chart tandem."""
    return f"{PART_OF}=tandem,{COMPONENT}={component}"


def _describe(deployment: Object) -> str:
    labels = deployment["metadata"].get("labels") or {}
    version = labels.get("app.kubernetes.io/version")
    name = str(deployment["metadata"]["name"])
    return f"{name} {version}" if version else name
