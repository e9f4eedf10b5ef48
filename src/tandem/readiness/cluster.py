"""The whole look at a cluster: what would stop this Run there, all of it in one go."""

from __future__ import annotations

from typing import Any

from tandem.check.report import Collector
from tandem.control.api import NAMESPACE, RUN, Api, Forbidden, NotFound, Object
from tandem.control.profiles import Chosen
from tandem.readiness.access import check_permissions, may
from tandem.readiness.admission import check_admission, choose_admission
from tandem.readiness.installation import check_controller, check_job_kind, check_run_kind
from tandem.readiness.needs import check_keys, check_needs
from tandem.readiness.operator import read_init_containers
from tandem.readiness.profiles import choose_profiles, describe_profiles, read_profiles
from tandem.readiness.queues import check_queues
from tandem.readiness.submission import check_object
from tandem.spec import Submission


def check_cluster(submission: Submission, api: Api, namespace: str, findings: Collector) -> dict[str, Any]:
    """Report everything that is missing in a namespace for this Run; facts about it. Nothing is made or changed.

    Raises what Api raises if the cluster cannot be asked.
    """
    facts: dict[str, Any] = {"namespace": namespace}
    labels, is_there = _read_labels(api, namespace, findings)
    knows_runs = check_run_kind(api, findings)
    if not is_there:
        return facts
    check_permissions(api, namespace, findings)
    if knows_runs and may(api, "create", RUN, namespace):
        facts["run"] = check_object(api, namespace, submission, findings)
    facts["controller"] = check_controller(api, namespace, findings)
    profiles = read_profiles(api, namespace, findings)
    if profiles is not None:
        facts["profiles"] = describe_profiles(profiles)
        chosen = choose_profiles(profiles, submission.run.spec, findings)
        check_needs(api, namespace, chosen, findings)
        check_keys(submission.run.spec, chosen, findings)
        check_queues(api, namespace, chosen, findings)
        added = _read_added(api, chosen.get("train"), findings)
        admit = choose_admission(api, namespace, labels, findings)
        if admit is not None:
            check_admission(admit, chosen, added, findings)
    return {name: value for name, value in facts.items() if value is not None}


def _read_added(api: Api, chosen: Chosen | None, findings: Collector) -> list[Object]:
    """What the training operator adds to the workers of this profile, as far as it is known."""
    if chosen is None or not check_job_kind(api, chosen, findings) or chosen.profile.manifest["kind"] != "PyTorchJob":
        return []
    return read_init_containers(api, findings) or []


def _read_labels(api: Api, namespace: str, findings: Collector) -> tuple[dict[str, str] | None, bool]:
    """The namespace's labels, None if they may not be read; and whether it is there, as far as one may know."""
    try:
        found: Object = api.get(NAMESPACE, None, namespace)
    except Forbidden:
        return None, True
    except NotFound:
        findings.add(
            "namespace-missing",
            where=f"namespace {namespace}",
            what="is not there",
            remedy="Choose another one with -n, or have the platform team create it.",
        )
        return None, False
    return found["metadata"].get("labels") or {}, True
