"""The namespace's profiles, and those that the Run's stages take."""

from __future__ import annotations

from tandem.check.report import Collector
from tandem.control.api import CONFIG_MAP, Api, Forbidden, list_all
from tandem.control.profiles import (
    ADMIN,
    Chosen,
    Profile,
    Profiles,
    find_misfits,
    find_profile,
    list_uses,
    parse_profiles,
)
from tandem.readiness.access import add_unseen
from tandem.readiness.admission import find_violations, list_pods
from tandem.readiness.installation import INSTALL, select
from tandem.readiness.needs import list_needs
from tandem.readiness.queues import find_queue
from tandem.spec import RunSpec


def read_profiles(api: Api, namespace: str, findings: Collector) -> dict[str, Profile] | None:
    """The namespace's profiles; None if there are none to read, which is reported."""
    try:
        maps, _ = list_all(api, CONFIG_MAP, namespace, selector=select("profiles"))
    except Forbidden:
        add_unseen(findings, ["profiles (configmaps)"], namespace)
        return None
    if len(maps) != 1:
        names = ", ".join(one["metadata"]["name"] for one in maps)
        what = f"several releases have profiles in it ({names})" if maps else "there are no profiles in it"
        remedy = "Have the platform team keep one release in a namespace." if maps else INSTALL
        findings.add("profiles-missing", where=f"namespace {namespace}", what=what, remedy=remedy)
        return None
    bodies = {name: str(text).encode() for name, text in (maps[0].get("data") or {}).items()}
    found, faults = parse_profiles(bodies)
    findings.take("profile-unusable", faults, cause="configuration")
    return found


def choose_profiles(profiles: Profiles, spec: RunSpec, findings: Collector) -> dict[str, Chosen]:
    """The profile of each use that the Run has; what there is none for, and what does not fit, is reported."""
    chosen: dict[str, Chosen] = {}
    for use in list_uses(spec):
        with findings.catching("profile-unfit"):
            one = find_profile(profiles, spec, use)
            findings.take("profile-unfit", list(find_misfits(one, spec)), cause="configuration")
            if _can_be_read(one, findings):
                chosen[use] = one
    return chosen


def _can_be_read(chosen: Chosen, findings: Collector) -> bool:
    """Profiles are texts to the server: it has looked at none of their fields."""
    try:
        find_queue(chosen)
        for pod in list_pods(chosen):
            list(list_needs(pod["spec"]))
            list(find_violations(pod["spec"]))
    except (KeyError, TypeError, AttributeError) as error:
        what = f"its pods cannot be read ({type(error).__name__}: {error})"
        findings.add("profile-unusable", where=f"profile {chosen.name}", what=what, remedy=ADMIN)
        return False
    return True


def describe_profiles(profiles: Profiles) -> dict[str, dict[str, str]]:
    """By stage: each profile with its ranks and GPUs."""
    facts: dict[str, dict[str, str]] = {}
    for name, profile in sorted(profiles.items(), key=lambda item: (not item[1].default, item[0])):
        gpus = "1 GPU" if profile.gpus == 1 else f"{profile.gpus} GPUs"
        size = gpus if profile.ranks is None else f"{profile.ranks} ranks on {gpus}"
        facts.setdefault(profile.stage, {})[name] = f"{size} (default)" if profile.default else size
    return facts
