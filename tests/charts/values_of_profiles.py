"""Values: profiles."""

from __future__ import annotations

from tests.charts.helm import templates
from tests.charts.pairs import (
    DIGEST,
    Look,
    Pair,
    dig,
    env_of_workloads,
    image_of,
    in_container,
    in_job,
    in_pod,
    volume_of,
    volume_of_workloads,
)


def default_of(stage: str) -> Look:
    return lambda release: [
        name for name, profile in release.profiles.items() if profile["default"] and profile["stage"] == stage
    ]


PROFILES = [
    *(
        Pair(
            path=f"defaultProfiles.{stage}",
            value="mine",
            given={"profiles": {"mine": {"stage": stage, "gracePeriodSeconds": 330}}},
            look=default_of(stage),
            unset=[usual],
            set=["mine"],
        )
        for stage, usual in (
            ("train", "train-8gpu"),
            ("generate", "generate"),
            ("endpoint", "generate-endpoint"),
            ("score", "score"),
        )
    ),
    Pair(
        path="profileDefaults.enabled",
        value=False,
        given={
            "profiles": {
                "mine": {"stage": "score"},
                **{name: {"enabled": True} for name in ("train-8gpu", "generate", "generate-endpoint", "score")},
            }
        },
        look=lambda release: "mine" in release.profiles,
        unset=True,
        set=False,
    ),
    Pair(
        path="profileDefaults.stage",
        value="score",
        given={
            "profiles": {
                "mine": {"gracePeriodSeconds": 330},
                **{name: {"stage": "train"} for name in ("train-8gpu", "train-2gpu", "train-multipod")},
            }
        },
        look=lambda release: release.profiles["mine"]["stage"],
        unset="train",
        set="score",
    ),
    *(
        Pair(
            path=f"profileDefaults.image.{key}",
            value=value,
            look=image_of("score"),
            unset="tandem-eval:0.1.0",
            set=expected,
        )
        for key, value, expected in (
            ("repository", "other", "other:0.1.0"),
            ("tag", "1.2", "tandem-eval:1.2"),
            ("digest", DIGEST, f"tandem-eval@{DIGEST}"),
        )
    ),
    Pair(
        path="profiles.train-2gpu.pods",
        value=3,
        look=lambda release: (
            dig(release.job("train-2gpu"), "spec", "pytorchReplicaSpecs", "Worker", "replicas"),
            release.profiles["train-2gpu"]["ranks"],
            release.profiles["train-2gpu"]["gpus"],
        ),
        unset=(None, 2, 2),
        set=(2, 6, 6),
    ),
    Pair(
        path="profiles.train-2gpu.processesPerPod",
        value=4,
        given={"profiles": {"train-2gpu": {"gpusPerPod": 0}}},
        look=lambda release: (
            release.job("train-2gpu")["spec"]["nprocPerNode"],
            release.profiles["train-2gpu"]["ranks"],
        ),
        unset=("2", 2),
        set=("4", 4),
    ),
    Pair(
        path="profiles.generate.gpusPerPod",
        value=0,
        look=lambda release: (
            release.profiles["generate"]["gpus"],
            dig(release.container("generate"), "resources", "limits", "nvidia.com/gpu"),
        ),
        unset=(1, 1),
        set=(0, None),
    ),
    Pair(
        path="profileDefaults.gpuResource",
        value="amd.com/gpu",
        look=lambda release: [
            release.container("generate")["resources"][kind].get("amd.com/gpu") for kind in ("requests", "limits")
        ],
        unset=[None, None],
        set=[1, 1],
    ),
    Pair(
        path="profileDefaults.resources",
        value={"limits": {"cpu": "7"}},
        look=lambda release: release.container("score")["resources"]["limits"].get("cpu"),
        unset=None,
        set="7",
    ),
    Pair(
        path="profileDefaults.shmSize",
        value="2Gi",
        look=lambda release: volume_of(release.pod("score"), "shm"),
        unset=None,
        set={"at": "/dev/shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ),
    Pair(
        path="profiles.score.tmpSize",
        value="",
        look=lambda release: volume_of(release.pod("score"), "tmp"),
        unset={"at": "/tmp", "emptyDir": {"sizeLimit": "30Gi"}},
        set={"at": "/tmp", "emptyDir": {}},
    ),
    Pair(
        path="profileDefaults.queue",
        value="gpus",
        look=lambda release: [
            release.job(name)["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for name in ("train-8gpu", "score")
        ],
        unset=[None, None],
        set=["gpus", "gpus"],
    ),
    *(
        Pair(path=f"profileDefaults.{key}", value=value, look=in_pod(key), unset=None, set=value)
        for key, value in (
            ("priorityClassName", "high"),
            ("schedulerName", "other"),
            ("runtimeClassName", "nvidia"),
            ("nodeSelector", {"a": "b"}),
            ("tolerations", [{"operator": "Exists"}]),
            ("affinity", {"nodeAffinity": {}}),
            ("topologySpreadConstraints", [{"maxSkew": 1}]),
        )
    ),
    Pair(
        path="profileDefaults.gracePeriodSeconds",
        value=61,
        look=in_pod("terminationGracePeriodSeconds"),
        unset=60,
        set=61,
    ),
    Pair(
        path="profileDefaults.deadlineSeconds",
        value=1209600,
        look=lambda release: (
            in_job("spec", "activeDeadlineSeconds")(release),
            in_job("spec", "runPolicy", "activeDeadlineSeconds", profile="train-8gpu")(release),
        ),
        unset=(None, None),
        set=(1209600, 1209600),
    ),
    Pair(
        path="profileDefaults.ttlSecondsAfterFinished",
        value=0,
        look=lambda release: (
            in_job("spec", "ttlSecondsAfterFinished")(release),
            in_job("spec", "runPolicy", "ttlSecondsAfterFinished", profile="train-8gpu")(release),
        ),
        unset=(None, None),
        set=(0, 0),
    ),
    Pair(path="profileDefaults.labels", value={"a": "b"}, look=in_job("metadata", "labels", "a"), unset=None, set="b"),
    Pair(
        path="profileDefaults.annotations",
        value={"a": "b"},
        look=in_job("metadata", "annotations"),
        unset=None,
        set={"a": "b"},
    ),
    Pair(
        path="profileDefaults.podLabels",
        value={"a": "b"},
        look=lambda release: {
            key: templates(release.job("score"))[0]["metadata"]["labels"].get(key)
            for key in ("a", "sidecar.istio.io/inject")
        },
        unset={"a": None, "sidecar.istio.io/inject": "false"},
        set={"a": "b", "sidecar.istio.io/inject": "false"},
    ),
    Pair(
        path="profileDefaults.podAnnotations",
        value={"a": "b"},
        look=lambda release: templates(release.job("score"))[0]["metadata"].get("annotations"),
        unset=None,
        set={"a": "b"},
    ),
    Pair(
        path="profileDefaults.extraEnv",
        value=[{"name": "A", "value": "b"}],
        look=env_of_workloads("A"),
        unset=None,
        set="b",
    ),
    Pair(
        path="profileDefaults.extraEnvFrom",
        value=[{"secretRef": {"name": "s"}}],
        look=in_container("envFrom"),
        unset=None,
        set=[{"secretRef": {"name": "s"}}],
    ),
    Pair(
        path="profileDefaults.extraVolumes",
        value=[{"name": "x", "emptyDir": {}}],
        given={"profileDefaults": {"extraVolumeMounts": [{"name": "x", "mountPath": "/x"}]}},
        look=volume_of_workloads("x"),
        unset=None,
        set={"at": "/x", "emptyDir": {}},
    ),
    Pair(
        path="profileDefaults.extraVolumeMounts",
        value=[{"name": "tmp", "mountPath": "/x"}],
        look=lambda release: [mount["mountPath"] for mount in release.container("score")["volumeMounts"]],
        unset=["/tmp"],
        set=["/tmp", "/x"],
    ),
    Pair(
        path="profileDefaults.podSecurityContext",
        value={"runAsUser": 1000650000},
        look=lambda release: [release.pod("score")["securityContext"][key] for key in ("runAsUser", "runAsNonRoot")],
        unset=[10001, True],
        set=[1000650000, True],
    ),
    Pair(
        path="profileDefaults.securityContext",
        value={"readOnlyRootFilesystem": False},
        look=lambda release: [
            release.container("score")["securityContext"][key]
            for key in ("readOnlyRootFilesystem", "allowPrivilegeEscalation")
        ],
        unset=[True, False],
        set=[False, False],
    ),
]
