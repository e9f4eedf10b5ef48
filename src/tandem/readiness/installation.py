"""What the platform team has installed: the custom resource, a controller, profiles."""

from __future__ import annotations

from tandem.check.report import Collector
from tandem.control.api import CONFIG_MAP, DEPLOYMENT, JOB_KINDS, RUN, Api, Forbidden, Object, list_all
from tandem.control.names import COMPONENT, PART_OF
from tandem.control.profiles import Chosen, Profile, Profiles, find_misfits, find_profile, parse_profiles
from tandem.readiness.access import add_unseen
from tandem.spec import RunSpec

_INSTALL = "Have the platform team install the chart tandem in this namespace, or choose another one with -n."
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
        found, _ = list_all(api, DEPLOYMENT, namespace, selector=_selector("controller"))
    except Forbidden:
        add_unseen(findings, ["the controller (deployments)"], namespace)
        return None
    if not found:
        findings.add(
            "controller-missing", where=f"namespace {namespace}", what="no controller serves it", remedy=_INSTALL
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


def read_profiles(api: Api, namespace: str, findings: Collector) -> dict[str, Profile] | None:
    """The namespace's profiles; None if there are none to read, which is reported."""
    try:
        maps, _ = list_all(api, CONFIG_MAP, namespace, selector=_selector("profiles"))
    except Forbidden:
        add_unseen(findings, ["profiles (configmaps)"], namespace)
        return None
    if len(maps) != 1:
        names = ", ".join(one["metadata"]["name"] for one in maps)
        what = f"several releases have profiles in it ({names})" if maps else "there are no profiles in it"
        remedy = "Have the platform team keep one release in a namespace." if maps else _INSTALL
        findings.add("profiles-missing", where=f"namespace {namespace}", what=what, remedy=remedy)
        return None
    bodies = {name: str(text).encode() for name, text in (maps[0].get("data") or {}).items()}
    found, faults = parse_profiles(bodies)
    findings.take("profile-unusable", faults, cause="configuration")
    return found


def choose_profiles(profiles: Profiles, spec: RunSpec, findings: Collector) -> dict[str, Chosen]:
    """The profile of each stage that the Run has; what there is none for, and what does not fit, is reported."""
    chosen: dict[str, Chosen] = {}
    for stage in (*(["train"] if spec.train is not None else []), *(["generate", "score"] if spec.evals else [])):
        with findings.catching("profile-unfit"):
            chosen[stage] = find_profile(profiles, spec, stage)
            findings.take("profile-unfit", list(find_misfits(chosen[stage], spec)), cause="configuration")
    return chosen


def describe_profiles(profiles: Profiles) -> dict[str, dict[str, str]]:
    """By stage: each profile with its ranks and GPUs."""
    facts: dict[str, dict[str, str]] = {}
    for name, profile in sorted(profiles.items(), key=lambda item: (not item[1].default, item[0])):
        size = f"{profile.gpus} GPUs" if profile.ranks is None else f"{profile.ranks} ranks on {profile.gpus} GPUs"
        facts.setdefault(profile.stage, {})[name] = f"{size} (default)" if profile.default else size
    return facts


def _selector(component: str) -> str:
    return f"{PART_OF}=tandem,{COMPONENT}={component}"


def _describe(deployment: Object) -> str:
    labels = deployment["metadata"].get("labels") or {}
    version = labels.get("app.kubernetes.io/version")
    name = str(deployment["metadata"]["name"])
    return f"{name} {version}" if version else name
