"""What a user asks of a cluster: Runs submitted, found, watched, and told to pause, to go on or to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from tandem.control.api import POD, RUN, AlreadyExists, Api, Busy, NotFound, Object, Refused, list_all
from tandem.control.names import RUN_ID, STAGE
from tandem.control.pods import find_container
from tandem.control.status import FINAL
from tandem.errors import BadConfiguration, Fault
from tandem.spec import Desired, spec_digest

LOOK_SECONDS = 1.0
"""How often a Run is asked after."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A Run object that is in the cluster now."""

    run: Object
    is_new: bool
    """False: it was there already, with this very spec."""


def submit_run(api: Api, namespace: str, body: Object, *, dry_run: bool = False) -> Submitted:
    """Make a Run object; the same one twice is one. A dry run only asks whether the server would take it.

    Raises BadConfiguration if another Run has its name, if the server does not take it or knows no Runs.
    """
    try:
        made = api.create(RUN, namespace, body, strict=True, dry_run=dry_run)
    except AlreadyExists:
        if "name" not in body["metadata"]:
            raise
    except NotFound as error:
        require_runs(api, namespace)
        raise BadConfiguration(error.faults) from None
    else:
        return Submitted(run=made, is_new=True)
    name = body["metadata"]["name"]
    found = api.get(RUN, namespace, name)
    if spec_digest(found["spec"]) != spec_digest(body["spec"]):
        what = "another Run with this name is there, and its spec differs"
        remedy = "Give this one a name of its own (--name), or --again for one that is made from its name."
        raise BadConfiguration(Fault(where=f"Run {namespace}/{name}", what=what, remedy=remedy))
    return Submitted(run=found, is_new=False)


def require_runs(api: Api, namespace: str) -> None:
    """Raises BadConfiguration if the cluster does not know Runs at all."""
    if not api.serves(RUN):
        what, remedy = "this cluster knows no Runs", "Have the chart tandem-crds installed, once a cluster."
        raise BadConfiguration(Fault(where=namespace, what=what, remedy=remedy))


def list_runs(api: Api, namespace: str) -> list[Object]:
    """Every Run object of a namespace, by name. Raises BadConfiguration if the cluster knows no Runs."""
    try:
        found, _ = list_all(api, RUN, namespace)
    except NotFound:
        require_runs(api, namespace)
        raise
    return sorted(found, key=lambda run: str(run["metadata"]["name"]))


def find_run(api: Api, namespace: str, wanted: str) -> Object:
    """The Run object with this name, or whose Run's id is this or alone starts so.

    Raises BadConfiguration if there is not one.
    """
    runs = list_runs(api, namespace)
    named = [run for run in runs if run["metadata"]["name"] == wanted]
    matching = named or [run for run in runs if wanted and str(_id_of(run)).startswith(wanted)]
    if len(matching) == 1:
        return matching[0]
    what = f"{len(matching)} Runs have ids that start so" if matching else "no Run has this name or id"
    remedy = f"See `tandem list --namespace {namespace}` for the names."
    raise BadConfiguration(Fault(where=f"RUN {wanted!r} in namespace {namespace}", what=what, remedy=remedy))


def want(api: Api, run: Object, desired: Desired) -> Object:
    """Have a Run be desired so; returns it as it is then."""
    metadata = run["metadata"]
    return api.merge(RUN, metadata["namespace"], metadata["name"], {"spec": {"desired": desired.value}})


def follow_run(
    api: Api, run: Object, *, sleep: Callable[[float], None], say: Callable[[str], None]
) -> Iterator[Object]:
    """The Run object as it is, then each time that it is found changed, until it is final.

    While the cluster is away it is asked again, and `say` gets one line. Raises BadConfiguration if somebody deletes
    the object meanwhile.
    """
    metadata = run["metadata"]
    seen, is_away = run, False
    yield run
    while not is_final(seen):
        sleep(LOOK_SECONDS)
        try:
            found = api.get(RUN, metadata["namespace"], metadata["name"])
        except Busy as error:
            if not is_away:
                say(f"waiting: {error}")
            is_away = True
            continue
        except NotFound:
            found = None
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            where = f"Run {metadata['namespace']}/{metadata['name']}"
            what, remedy = "was deleted while it was followed", "Submit it again: what is committed is adopted."
            raise BadConfiguration(Fault(where=where, what=what, remedy=remedy))
        is_away = False
        if found["metadata"]["resourceVersion"] != seen["metadata"]["resourceVersion"]:
            seen = found
            yield seen


def read_logs(api: Api, run: Object, stage: str = "") -> dict[str, bytes]:
    """What the pods that a Run has now say, or said before they ended, by pod; of one kind of stage, or of all."""
    metadata = run["metadata"]
    selector = f"{RUN_ID}={_id_of(run)}" + (f",{STAGE}={stage.partition('/')[0]}" if stage else "")
    pods, _ = list_all(api, POD, metadata["namespace"], selector=selector) if _id_of(run) else ([], "")
    found = {}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
        with suppress(NotFound, Refused):  # it is gone, or has not begun
            found[str(pod["metadata"]["name"])] = api.read_log(
                metadata["namespace"], pod["metadata"]["name"], find_container(pod)
            )
    return found


def await_first_look(api: Api, run: Object, *, sleep: Callable[[float], None], seconds: float) -> Object:
    """The Run object once a controller has looked at this generation of it, or as it is after so many seconds."""
    metadata = run["metadata"]
    waited = 0.0
    while not is_seen(run) and waited < seconds:
        sleep(LOOK_SECONDS / 2)
        waited += LOOK_SECONDS / 2
        with suppress(Busy):
            run = api.get(RUN, metadata["namespace"], metadata["name"])
    return run


def is_seen(run: Object) -> bool:
    """Whether a controller has looked at the Run as it is now."""
    return bool((run.get("status") or {}).get("observedGeneration") == run["metadata"].get("generation"))


def is_final(run: Object) -> bool:
    """Whether nothing more will happen to it."""
    return (run.get("status") or {}).get("phase") in FINAL


def _id_of(run: Object) -> str:
    return (run.get("status") or {}).get("runId") or ""
