"""Values: controller, accounts, roles and schedules."""

from __future__ import annotations

from typing import Any

from tests.charts.helm import Release
from tests.charts.pairs import (
    CONTROLLER,
    SCHEDULE,
    SCHEDULED,
    Look,
    Pair,
    dig,
    env_of_controller,
    exists,
    in_controller,
    in_object,
    names,
    volume_of,
)

POD = ("spec",)
CONTAINER = ("spec", "containers", 0)
CONTROLLERS = [
    Pair(
        path="controller.extraArgs",
        value=["--host", "127.0.0.1"],
        look=lambda release: release.controller["spec"]["containers"][0]["args"][5:],
        unset=[],
        set=["--host", "127.0.0.1"],
    ),
    Pair(
        path="controller.resources",
        value={"limits": {"cpu": "1"}},
        look=in_controller(*CONTAINER, "resources", "limits"),
        unset={"memory": "1Gi", "ephemeral-storage": "2Gi"},
        set={"memory": "1Gi", "ephemeral-storage": "2Gi", "cpu": "1"},
    ),
    Pair(
        path="controller.tmpSize",
        value="3Gi",
        look=lambda release: volume_of(release.controller["spec"], "tmp"),
        unset={"at": "/tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        set={"at": "/tmp", "emptyDir": {"sizeLimit": "3Gi"}},
    ),
    Pair(
        path="controller.gracePeriodSeconds",
        value=5,
        look=in_controller(*POD, "terminationGracePeriodSeconds"),
        unset=30,
        set=5,
    ),
    Pair(
        path="controller.podLabels",
        value={"a": "b"},
        look=in_controller("metadata", "labels", "a"),
        unset=None,
        set="b",
    ),
    Pair(
        path="controller.podAnnotations",
        value={"a": "b"},
        look=in_controller("metadata", "annotations", "a"),
        unset=None,
        set="b",
    ),
    Pair(
        path="controller.annotations",
        value={"a": "b"},
        look=in_object("Deployment", CONTROLLER, "metadata", "annotations"),
        unset=None,
        set={"a": "b"},
    ),
    *(
        Pair(path=f"controller.{key}", value=value, look=in_controller(*POD, key), unset=None, set=value)
        for key, value in (
            ("priorityClassName", "high"),
            ("runtimeClassName", "other"),
            ("nodeSelector", {"a": "b"}),
            ("tolerations", [{"operator": "Exists"}]),
            ("affinity", {"nodeAffinity": {}}),
            ("topologySpreadConstraints", [{"maxSkew": 1}]),
        )
    ),
    Pair(
        path="controller.extraEnv",
        value=[{"name": "A", "value": "b"}],
        look=env_of_controller("A"),
        unset=None,
        set="b",
    ),
    Pair(
        path="controller.extraEnvFrom",
        value=[{"secretRef": {"name": "s"}}],
        look=in_controller(*CONTAINER, "envFrom"),
        unset=None,
        set=[{"secretRef": {"name": "s"}}],
    ),
    Pair(
        path="controller.extraVolumes",
        value=[{"name": "x", "emptyDir": {}}],
        given={"controller": {"extraVolumeMounts": [{"name": "x", "mountPath": "/x"}]}},
        look=lambda release: volume_of(release.controller["spec"], "x"),
        unset=None,
        set={"at": "/x", "emptyDir": {}},
    ),
    Pair(
        path="controller.extraVolumeMounts",
        value=[{"name": "tmp", "mountPath": "/x"}],
        look=lambda release: [mount["mountPath"] for mount in dig(release.controller, *CONTAINER, "volumeMounts")],
        unset=["/tmp", "/etc/tandem/profiles"],
        set=["/tmp", "/etc/tandem/profiles", "/x"],
    ),
    Pair(
        path="controller.podSecurityContext",
        value={"runAsUser": 7},
        look=in_controller(*POD, "securityContext", "runAsUser"),
        unset=10001,
        set=7,
    ),
    Pair(
        path="controller.securityContext",
        value={"readOnlyRootFilesystem": False},
        look=in_controller(*CONTAINER, "securityContext", "readOnlyRootFilesystem"),
        unset=True,
        set=False,
    ),
    Pair(
        path="controller.livenessProbe",
        value={"periodSeconds": 7},
        look=in_controller(*CONTAINER, "livenessProbe"),
        unset={
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        set={
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 7,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    ),
    Pair(
        path="controller.readinessProbe",
        value={"periodSeconds": 7},
        look=in_controller(*CONTAINER, "readinessProbe"),
        unset={
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        set={
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 7,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    ),
    Pair(
        path="controller.service.annotations",
        value={"a": "b"},
        look=in_object("Service", CONTROLLER, "metadata", "annotations"),
        unset=None,
        set={"a": "b"},
    ),
    Pair(
        path="controller.podDisruptionBudget.enabled",
        value=True,
        look=in_object("PodDisruptionBudget", CONTROLLER, "spec", "maxUnavailable"),
        unset=None,
        set=1,
    ),
    Pair(
        path="controller.podDisruptionBudget.minAvailable",
        value=0,
        given={"controller": {"podDisruptionBudget": {"enabled": True}}},
        look=lambda release: {
            key: dig(release.one("PodDisruptionBudget", CONTROLLER), "spec", key)
            for key in ("minAvailable", "maxUnavailable")
        },
        unset={"minAvailable": None, "maxUnavailable": 1},
        set={"minAvailable": 0, "maxUnavailable": None},
    ),
    Pair(
        path="controller.podDisruptionBudget.maxUnavailable",
        value="50%",
        given={"controller": {"podDisruptionBudget": {"enabled": True}}},
        look=in_object("PodDisruptionBudget", CONTROLLER, "spec", "maxUnavailable"),
        unset=1,
        set="50%",
    ),
]


def account_of(role: str) -> Look:
    """The service account that a role's pods use, and whether the chart makes it."""

    def look(release: Release) -> Any:
        if role == "controller":
            pod = release.controller["spec"]
        elif role == "schedule":
            pod = dig(release.one("CronJob", "nightly"), "spec", "jobTemplate", "spec", "template", "spec")
        else:
            pod = release.pod({"train": "train-8gpu", "eval": "generate"}[role])
        return pod["serviceAccountName"], pod["serviceAccountName"] in release.every("ServiceAccount")

    return look


ACCOUNTS = [
    *(
        pair
        for role in ("controller", "train", "eval", "schedule")
        for pair in (
            Pair(
                path=f"serviceAccounts.{role}.create",
                value=False,
                given=SCHEDULED,
                look=account_of(role),
                unset=(f"tandem-{role}", True),
                set=("default", False),
            ),
            Pair(
                path=f"serviceAccounts.{role}.name",
                value="mine",
                given=SCHEDULED,
                look=account_of(role),
                unset=(f"tandem-{role}", True),
                set=("mine", True),
            ),
            Pair(
                path=f"serviceAccounts.{role}.annotations",
                value={"a": "b"},
                given=SCHEDULED,
                look=in_object("ServiceAccount", f"tandem-{role}", "metadata", "annotations"),
                unset=None,
                set={"a": "b"},
            ),
        )
    ),
    Pair(
        path="rbac.create",
        value=False,
        given=SCHEDULED,
        look=lambda release: (names("Role")(release), names("RoleBinding")(release)),
        unset=(["tandem-controller", "tandem-schedule"],) * 2,
        set=([], []),
    ),
    Pair(
        path="rbac.users",
        value=[{"kind": "User", "name": "ann"}],
        look=lambda release: [
            dig(release.every("RoleBinding").get("tandem-users"), *keys)
            for keys in (("roleRef", "name"), ("subjects",))
        ],
        unset=[None, None],
        set=["tandem-run-editor", [{"kind": "User", "name": "ann"}]],
    ),
    Pair(
        path="schedules",
        value=[SCHEDULE],
        look=lambda release: (
            names("CronJob")(release),
            exists("ConfigMap", "tandem-schedules")(release),
            exists("ServiceAccount", "tandem-schedule")(release),
        ),
        unset=([], False, False),
        set=(["nightly"], True, True),
    ),
]
