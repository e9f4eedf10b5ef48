"""The queues of Kueue that the chosen profiles name."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.check.report import Collector, Severity
from tandem.control.api import LOCAL_QUEUE, Api, Forbidden, Object, list_all
from tandem.control.names import QUEUE
from tandem.control.profiles import ADMIN, Chosen
from tandem.readiness.access import add_unseen


def check_queues(api: Api, namespace: str, chosen: Mapping[str, Chosen], findings: Collector) -> None:
    """Report queues that are not in the namespace: jobs would wait in them for ever."""
    named = {one.name: queue for one in chosen.values() if (queue := find_queue(one)) is not None}
    if not named:
        return
    if not api.serves(LOCAL_QUEUE):
        for profile, queue in named.items():
            findings.add(
                "kueue-missing",
                where=f"profile {profile}",
                what=f"names the queue {queue}, and the cluster knows no LocalQueue of {LOCAL_QUEUE.api_version}",
                remedy="Without Kueue jobs start at once; to have them queued, have the platform team install it.",
                severity=Severity.WARNING,
            )
        return
    try:
        listed, _ = list_all(api, LOCAL_QUEUE, namespace)
    except Forbidden:
        add_unseen(findings, ["queues (localqueues)"], namespace)
        return
    queues = {str(one["metadata"]["name"]): one for one in listed}
    for profile, queue in named.items():
        if queue not in queues:
            known = f"Queues here: {', '.join(sorted(queues))}." if queues else "There is no queue here."
            findings.add(
                "queue-missing",
                where=f"profile {profile}",
                what=f"there is no LocalQueue {queue} in namespace {namespace}, so its jobs would wait for ever",
                remedy=f"{ADMIN} {known}",
            )
        elif why := _why_inactive(queues[queue]):
            findings.add(
                "queue-inactive",
                where=f"LocalQueue {namespace}/{queue}",
                what=f"it admits nothing now ({why})",
                remedy="Jobs wait until the platform team has it active.",
                severity=Severity.WARNING,
            )


def find_queue(chosen: Chosen) -> str | None:
    """The queue that a profile's jobs name. Raises TypeError or AttributeError if its labels are none."""
    found = ((chosen.profile.manifest.get("metadata") or {}).get("labels") or {}).get(QUEUE)
    if not isinstance(found, str | None):
        raise TypeError(f"the queue {found!r} is no text")
    return found


def _why_inactive(queue: Object) -> str | None:
    conditions = (queue.get("status") or {}).get("conditions") or ()
    return next(
        (
            str(one.get("message") or one.get("reason"))
            for one in conditions
            if one.get("type") == "Active" and one.get("status") == "False"
        ),
        None,
    )
