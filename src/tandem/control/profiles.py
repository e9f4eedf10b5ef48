"""Profiles: the shapes of jobs that the platform team allows, as a folder of files that the chart renders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.control.manifest import pod_templates, stage_container
from tandem.control.names import JobStage
from tandem.errors import BadConfiguration, Fault
from tandem.record.evaluation import find_evaluation
from tandem.record.run import RunRecord
from tandem.spec import RunSpec
from tandem.spec.yaml12 import NotReadable, parse_yaml

SPEAKS = str(RunRecord.model_fields["schema_"].default)
"""The run record that this version writes: images must read it."""

Use = Literal["train", "generate", "endpoint", "score"]
"""What a profile is for: a stage, or the stage generate where a server generates."""

SUFFIX = ".yaml"
ADMIN = "Have the platform team mend it (profiles in the values of the chart tandem)."


class Profile(BaseModel):
    """One profile, as its file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stage: Use
    default: bool
    ranks: int | None = Field(default=None, ge=1)
    """Processes that train together, over all pods. None for the others."""
    gpus: int = Field(ge=0)
    """Of the whole job for train, of one pod else."""
    speaks: str
    """The run record that the image's tandem reads."""
    requireDigest: bool = False  # noqa: N815 - the file's spelling
    manifest: dict[str, Any]


Profiles = Mapping[str, Profile]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A profile and its name."""

    name: str
    profile: Profile


def read_profiles(folder: Path) -> dict[str, Profile]:
    """Every profile of a folder, by name. Raises BadConfiguration with the faults of all of them."""
    bodies: dict[str, bytes] = {}
    faults: list[Fault] = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file())
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise BadConfiguration(
            Fault(where=str(folder), what=what, remedy="Give the folder of profiles with --profiles.")
        ) from None
    for path in paths:
        try:
            bodies[path.name] = path.read_bytes()
        except OSError as error:
            faults.append(Fault(where=path.name, what=f"cannot be read ({error.strerror})", remedy=ADMIN))
    found, wrong = parse_profiles(bodies)
    if faults or wrong:
        raise BadConfiguration([*faults, *wrong])
    return found


def parse_profiles(bodies: Mapping[str, bytes]) -> tuple[dict[str, Profile], list[Fault]]:
    """The profiles that can be read of files by name, by the profile's name; and the faults of all of them."""
    found: dict[str, Profile] = {}
    faults: list[Fault] = []
    for name, body in sorted(bodies.items()):
        try:
            found[name.removesuffix(SUFFIX)] = parse_profile(body, where=name)
        except BadConfiguration as error:
            faults += error.faults
    return found, [*faults, *_check_defaults(found)]


def parse_profile(body: bytes, *, where: str) -> Profile:
    """Read one profile. Raises BadConfiguration with all its faults."""
    try:
        profile = Profile.model_validate(parse_yaml(body.decode("utf-8")).value)
    except ValidationError as error:
        raise BadConfiguration(
            [
                Fault(where=f"{where}: {'.'.join(map(str, item['loc']))}", what=item["msg"], remedy=ADMIN)
                for item in error.errors(include_url=False, include_input=False)
            ]
        ) from None
    except (UnicodeDecodeError, NotReadable) as error:
        raise BadConfiguration(Fault(where=where, what=f"is not YAML ({error})", remedy=ADMIN)) from None
    faults = [Fault(where=where, what=what, remedy=ADMIN) for what in _problems(profile)]
    if faults:
        raise BadConfiguration(faults)
    return profile


def list_uses(spec: RunSpec) -> tuple[Use, ...]:
    """What a Run needs profiles for, in the order of its stages."""
    served = {evaluation.endpoint is not None for evaluation in spec.evals}
    wanted = {"train": spec.train is not None, "generate": False in served, "endpoint": True in served}
    return tuple(use for use in get_args(Use) if wanted.get(use, bool(spec.evals)))


def use_of(stage: JobStage, spec: RunSpec) -> Use:
    """What the profile of a stage of this Run must be for."""
    if stage.kind == "generate":
        return "generate" if find_evaluation(spec, stage.evaluation)[0].endpoint is None else "endpoint"
    return "train" if stage.kind == "train" else "score"


def choose_profile(profiles: Profiles, spec: RunSpec, use: Use) -> Chosen:
    """The profile for a use. Raises BadConfiguration with all that does not fit."""
    chosen = find_profile(profiles, spec, use)
    faults = list(find_misfits(chosen, spec))
    if faults:
        raise BadConfiguration(faults)
    return chosen


def find_profile(profiles: Profiles, spec: RunSpec, use: Use) -> Chosen:
    """The profile that a Run names for a use, else the default. Raises BadConfiguration if there is none."""
    wanted = None if spec.profiles is None else getattr(spec.profiles, use)
    fitting = sorted(name for name, profile in profiles.items() if profile.stage == use)
    where = f"spec.profiles.{use}"
    if wanted is None:
        default = [name for name in fitting if profiles[name].default]
        if not default:
            what = f"there is no profile for {use}"
            raise BadConfiguration(Fault(where=where, what=what, remedy=ADMIN))
        wanted = default[0]
    if wanted not in fitting:
        other = f"is a profile for {profiles[wanted].stage}" if wanted in profiles else "is not a profile here"
        remedy = f"Choose one of: {', '.join(fitting) or 'none is there; ask the platform team'}."
        raise BadConfiguration(Fault(where=where, what=f"{wanted} {other}", remedy=remedy))
    return Chosen(name=wanted, profile=profiles[wanted])


def find_misfits(chosen: Chosen, spec: RunSpec) -> Iterator[Fault]:
    """Everything about a profile that does not fit this Run."""
    name, profile = chosen.name, chosen.profile
    if profile.speaks != SPEAKS:
        what = f"its image reads {profile.speaks}, and this controller writes {SPEAKS}"
        yield Fault(where=f"profile {name}", what=what, remedy="Have the image and the controller of one version.")
    if profile.requireDigest:
        for image in list_images(profile.manifest):
            if "@sha256:" not in image:
                what = f"its image {image} has no digest, and digests are demanded here"
                yield Fault(where=f"profile {name}", what=what, remedy="Have its image named by @sha256: in the chart.")
    if profile.stage == "train" and spec.train is not None and spec.train.ranks != profile.ranks:
        yield Fault(
            where="spec.train.ranks",
            what=f"is {spec.train.ranks}, and profile {name} trains on {profile.ranks}",
            remedy=f"Write ranks: {profile.ranks}, or choose another profile under spec.profiles.train.",
        )


def list_images(manifest: Mapping[str, Any]) -> list[str]:
    """The images that run stages."""
    return list(
        dict.fromkeys(str(stage_container(manifest, template).get("image", "")) for template in pod_templates(manifest))
    )


def _check_defaults(profiles: Profiles) -> Iterator[Fault]:
    for stage in get_args(Use):
        named = sorted(name for name, profile in profiles.items() if profile.stage == stage)
        defaults = [name for name in named if profiles[name].default]
        if named and len(defaults) != 1:
            what = f"exactly one must be the default, and {', '.join(defaults) or 'none'} is"
            yield Fault(where=f"profiles for {stage} ({', '.join(named)})", what=what, remedy=ADMIN)


def _problems(profile: Profile) -> Iterator[str]:
    manifest = profile.manifest
    kind = (manifest.get("apiVersion"), manifest.get("kind"))
    if kind == ("kubeflow.org/v1", "PyTorchJob"):
        shape = _pytorch_problems
        if profile.stage != "train":
            yield "a PyTorchJob is for train"
            return
    elif kind == ("batch/v1", "Job"):
        shape = _job_problems
    else:
        yield f"its manifest is neither a PyTorchJob of kubeflow.org/v1 nor a Job of batch/v1 ({kind[1]} of {kind[0]})"
        return
    if (profile.stage == "train") != (profile.ranks is not None):
        yield "train needs ranks" if profile.stage == "train" else "ranks is for train"
    if "name" in (manifest.get("metadata") or {}):
        yield "metadata.name is set by the controller"
    try:
        templates = pod_templates(manifest)
        containers = [stage_container(manifest, template) for template in templates]
        found = [*shape(profile, manifest["spec"]), *_pod_problems(profile, templates, containers)]
    except (KeyError, TypeError, AttributeError) as error:
        yield f"its manifest has no usable pod template (missing: {error})"
        return
    except ValueError as error:
        yield str(error)
        return
    yield from found


def _pytorch_problems(profile: Profile, spec: Mapping[str, Any]) -> Iterator[str]:
    replicas = spec["pytorchReplicaSpecs"]
    counts = {role: _read_count(replica.get("replicas", 1), f"{role}.replicas") for role, replica in replicas.items()}
    if counts.get("Master") != 1:
        yield "a PyTorchJob needs exactly one Master"
    nproc = spec.get("nprocPerNode")
    if isinstance(nproc, str) and nproc.isdecimal() and profile.ranks is not None:
        made = sum(counts.values()) * int(nproc)
        if made != profile.ranks:
            yield f"ranks says {profile.ranks}, and its {sum(counts.values())} pods of {nproc} processes make {made}"
    policy = spec.get("runPolicy") or {}
    if policy.get("cleanPodPolicy") != "Running":
        yield "runPolicy.cleanPodPolicy must be Running: else survivors of a failure keep their GPUs"
    if policy.get("backoffLimit") != 0:
        yield "runPolicy.backoffLimit must be 0: tandem retries a training as a whole"
    for role, replica in replicas.items():
        if replica.get("restartPolicy") != "Never":
            yield f"{role}.restartPolicy must be Never: tandem retries a training as a whole"


def _job_problems(profile: Profile, spec: Mapping[str, Any]) -> Iterator[str]:
    if spec["template"]["spec"].get("restartPolicy") != "Never":
        yield "restartPolicy must be Never: tandem counts and retries attempts"
    if profile.stage not in ("generate", "endpoint"):
        if spec.get("backoffLimit") != 0:
            yield "backoffLimit must be 0: tandem counts and retries attempts"
        return
    wanted = {"completionMode": "Indexed", "backoffLimitPerIndex": 0, "podReplacementPolicy": "Failed"}
    for key, value in wanted.items():
        if spec.get(key) != value:
            yield f"{key} must be {value}: each pod makes one shard, and failed shards are retried alone"


def _pod_problems(profile: Profile, templates: list[dict[str, Any]], containers: list[dict[str, Any]]) -> Iterator[str]:
    for template, container in zip(templates, containers, strict=True):
        if not container.get("image"):
            yield f"the container {container['name']} has no image"
        fields = {entry["name"]: entry.get("valueFrom") for entry in container.get("env") or []}
        if (fields.get("POD_UID") or {}).get("fieldRef", {}).get("fieldPath") != "metadata.uid":
            yield f"the container {container['name']} needs POD_UID from the field metadata.uid: it names its execution"
        asked = _count_gpus(template)
        if profile.stage != "train" and asked is not None and asked != profile.gpus:
            yield f"gpus says {profile.gpus}, and its pod asks for {asked}"


def _count_gpus(template: Mapping[str, Any]) -> int | None:
    """GPUs that a pod asks for; None if it names no resource that is called so."""
    counts = [
        _read_count(amount, f"the limit of {resource}")
        for container in template["spec"]["containers"]
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items()
        if resource.endswith("/gpu")
    ]
    return sum(counts) if counts else None


def _read_count(value: Any, of: str) -> int:
    """Raises ValueError that names what of it is, if it is no whole number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{of} is no whole number: {value!r}") from None
