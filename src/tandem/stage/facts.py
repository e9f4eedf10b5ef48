"""The four facts that a pod is told; everything else it reads from run.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tandem.errors import BadConfiguration, Fault
from tandem.store.layout import RunPlace, place_of_record

_ATTEMPT = re.compile(r"0*[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What this process is to do."""

    store_url: str
    place: RunPlace
    run_sha256: str
    """Digest of run.json's bytes: the Run that was planned, not one that took its place."""
    stage: str
    """One stage; for an Indexed Job `generate/<evaluation>/<shards>`, of which each pod makes one."""
    attempt: int


def to_environment(facts: Facts) -> dict[str, str]:
    """The environment variables that carry the facts."""
    return {
        "RUN_URI": f"{facts.store_url.rstrip('/')}/{facts.place.record}",
        "RUN_SHA256": facts.run_sha256,
        "STAGE": facts.stage,
        "ATTEMPT": str(facts.attempt),
    }


def read_facts(environment: Mapping[str, str]) -> Facts:
    """The facts in the environment. Raises BadConfiguration for all that are missing or wrong at once."""
    names = ("RUN_URI", "RUN_SHA256", "STAGE", "ATTEMPT")
    faults = [
        Fault(
            where=name,
            what="is not set",
            remedy="This command is what tandem's pods run; on this machine use `tandem run FILE`.",
        )
        for name in names
        if not environment.get(name)
    ]
    if faults:
        raise BadConfiguration(faults)
    root, found, rest = environment["RUN_URI"].rpartition("/runs/")
    place = place_of_record(f"runs/{rest}") if found else None
    if place is None:
        faults.append(_wrong("RUN_URI", "does not end in /runs/<namespace>/<run id>/run.json"))
    attempt = environment["ATTEMPT"]
    if not _ATTEMPT.fullmatch(attempt):
        faults.append(_wrong("ATTEMPT", f"is not a number from 1 ({attempt[:20]!r})"))
    stage = _choose_shard(environment["STAGE"], environment.get("JOB_COMPLETION_INDEX"), faults)
    try:
        RunPlace(namespace="n", run_id="r").stage(stage)
    except ValueError:
        faults.append(_wrong("STAGE", f"is no stage ({environment['STAGE'][:60]!r})"))
    if faults or place is None:
        raise BadConfiguration(faults)
    return Facts(
        store_url=root,
        place=place,
        run_sha256=environment["RUN_SHA256"],
        stage=stage,
        attempt=int(attempt),
    )


def _choose_shard(stage: str, index: str | None, faults: list[Fault]) -> str:
    """The stage of this pod: of a list of shards the one at its index in the Indexed Job."""
    kind, _, rest = stage.partition("/")
    evaluation, found, listed = rest.rpartition("/")
    if kind != "generate" or not found:
        return stage
    shards = listed.split(",")
    if index is None:
        if len(shards) > 1:
            what = f"is not set, and STAGE lists {len(shards)} shards ({listed[:60]})"
            faults.append(_wrong("JOB_COMPLETION_INDEX", what))
        return f"generate/{evaluation}/{shards[0]}"
    if not (index.isascii() and index.isdigit() and int(index) < len(shards)):
        what = f"is {index[:20]!r}, and STAGE lists {len(shards)} shards ({listed[:60]})"
        faults.append(_wrong("JOB_COMPLETION_INDEX", what))
        return f"generate/{evaluation}/{shards[0]}"
    return f"generate/{evaluation}/{shards[int(index)]}"


def _wrong(name: str, what: str) -> Fault:
    return Fault(where=name, what=what, remedy="Let tandem's controller or `tandem run` set it.")
