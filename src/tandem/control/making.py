"""Making the job of an attempt: by the profile the first time, by the manifest that was kept of that ever after."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tandem.control.api import JOB_KINDS, AlreadyExists, Api, Busy, NotFound, Object, Refused
from tandem.control.manifest import Owner, build_job
from tandem.control.names import RUN_SHA256, STAGE, JobStage, name_job
from tandem.control.profiles import Profiles, choose_profile, use_of
from tandem.control.seen import owner_uid
from tandem.control.settings import ensure_settings, read_checkpoints
from tandem.errors import BadConfiguration, Fault
from tandem.spec import RunSpec, canonical_json
from tandem.stage.facts import Facts
from tandem.store import AlreadyThere, NotThere, Store
from tandem.store.layout import RunPlace

JOB_SCHEMA = "tandem.dev/job/v1"


@dataclass(frozen=True, kw_only=True)
class JobMaker:
    """Makes jobs for one Run object."""

    api: Api
    store: Store
    place: RunPlace
    spec: RunSpec
    record_sha256: str
    owner: Owner
    read_profiles: Callable[[], Profiles]

    def make(self, stage: JobStage, number: int) -> Object:
        """Create the job of an attempt, or find it where it was created before.

        Raises BadConfiguration for what a mended profile, permission or name can cure, Busy while a job of this name is
        on its way out.
        """
        name = name_job(self.place.run_id, self.spec, read_checkpoints(self.store, self.place), stage, number)
        if stage.kind == "score":
            ensure_settings(self.store, self.place, self.spec, stage.stages[0])
        facts = Facts(
            store_url=self.store.url,
            place=self.place,
            run_sha256=self.record_sha256,
            stage=stage.text,
            attempt=number,
        )
        manifest = build_job(
            self._find_manifest(stage, facts, name), name=name, stage=stage, facts=facts, owner=self.owner
        )
        kind = JOB_KINDS[manifest["kind"]]
        try:
            made = self.api.create(kind, self.place.namespace, manifest)
        except AlreadyExists:
            made = self.api.get(kind, self.place.namespace, name)
            self._require_same(made, manifest)
        except NotFound as error:
            raise _not_served(manifest, error) from None
        return made

    def _find_manifest(self, stage: JobStage, facts: Facts, name: str) -> Object:
        """The manifest of the stage's first attempt; if this is the first, the profile's, and it is kept."""
        key = self.place.job(stage.stages[0])
        with suppress(NotThere):
            kept: Object = json.loads(self.store.get(key))["manifest"]
            return kept
        chosen = choose_profile(self.read_profiles(), self.spec, use_of(stage, self.spec))
        manifest = build_job(chosen.profile.manifest, name=name, stage=stage, facts=facts, owner=self.owner)
        kind = JOB_KINDS[manifest["kind"]]
        # Only what the server takes is kept, or a profile that was mended later would change nothing.
        try:
            self.api.create(kind, self.place.namespace, manifest, dry_run=True)
        except AlreadyExists:
            pass
        except NotFound as error:
            raise _not_served(manifest, error) from None
        except Refused as error:
            raise BadConfiguration(
                [
                    Fault(where=f"profile {chosen.name}", what=fault.what, remedy="Have the platform team mend it.")
                    for fault in error.faults
                ]
            ) from None
        with suppress(AlreadyThere):
            body = {"schema": JOB_SCHEMA, "profile": chosen.name, "manifest": manifest}
            self.store.put_if_absent(key, canonical_json(body))
        return manifest

    def _require_same(self, found: Object, wanted: Object) -> None:
        """The job that has our name must be the attempt that was to be made, and there to stay."""
        name = wanted["metadata"]["name"]
        ours = {key: wanted["metadata"]["annotations"][key] for key in (RUN_SHA256, STAGE)}
        theirs = found["metadata"].get("annotations") or {}
        if any(theirs.get(key) != value for key, value in ours.items()):
            what = "is there already, and belongs to something else"
            raise BadConfiguration(Fault(where=f"job {name}", what=what, remedy="Delete it, or rename the Run."))
        if "deletionTimestamp" in found["metadata"] or owner_uid(found) != self.owner.uid:
            what = "is still there from before, and is being deleted"
            raise Busy(Fault(where=f"job {name}", what=what, remedy="Wait until its pods have ended."))


def _not_served(manifest: Object, error: NotFound) -> BadConfiguration:
    what = f"the cluster knows no {manifest['kind']} ({error.faults[0].what})"
    remedy = "Have the platform team install the training operator (tandem check --cluster names all that is missing)."
    return BadConfiguration(Fault(where=manifest["kind"], what=what, remedy=remedy))
