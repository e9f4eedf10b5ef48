"""What the training operator puts before the containers of each worker, as its settings say.

Facts of kubeflow/training-operator v1.9.4: pkg/config, pkg/controller.v1/pytorch/initcontainer.go.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from tandem.check.report import Collector
from tandem.control.api import CONFIG_MAP, DEPLOYMENT, Api, Forbidden, NotFound, Object, list_all
from tandem.errors import Fault
from tandem.readiness.access import add_unseen
from tandem.readiness.installation import OPERATOR_REMEDY, is_available
from tandem.spec.yaml12 import NotReadable, parse_yaml

NAMESPACE = "kubeflow"
NAME = "training-operator"
_SELECTOR = "control-plane=kubeflow-training-operator"
_OPTION = "--pytorch-init-container-template-file"
_USUAL_FILE = "/etc/config/initContainer.yaml"
BUILT_IN: list[Object] = [{"name": "init-pytorch", "image": "alpine:3.10", "command": ["sh", "-c", "nslookup"]}]
"""As far as admission looks at it: there is no security context."""
_FIELD = re.compile(r"\{\{-?\s*\.\w+\s*-?\}\}")


def read_init_containers(api: Api, findings: Collector) -> list[Object] | None:
    """The containers that workers get; None where that cannot be known, which is reported."""
    operator = _find_operator(api, findings)
    if operator is None:
        return None
    namespace, name = operator["metadata"]["namespace"], operator["metadata"]["name"]
    if not is_available(operator):
        findings.add(
            "training-operator-not-ready",
            where=f"deployment {namespace}/{name}",
            what="the training operator is not ready, so no training will begin",
            remedy=f"Have the platform team see `kubectl -n {namespace} describe deployment {name}`.",
            cause="unavailable",
        )
    template = _find_template(operator)
    if template is None:
        return BUILT_IN
    config, key = template
    if config is None:
        add_unseen(findings, [f"the file {key} of the training operator, which is in no ConfigMap"], namespace)
        return None
    try:
        data = api.get(CONFIG_MAP, namespace, config).get("data") or {}
    except (Forbidden, NotFound):
        add_unseen(findings, [f"the training operator's settings (configmap {config})"], namespace)
        return None
    if key not in data:  # as the operator does with a file that is not there
        return BUILT_IN
    return _parse(str(data[key]), f"ConfigMap {namespace}/{config}: {key}", findings)


def _find_operator(api: Api, findings: Collector) -> Object | None:
    """The Deployment where the operator's own manifests put it, else wherever its label is."""
    try:
        return api.get(DEPLOYMENT, NAMESPACE, NAME)
    except (Forbidden, NotFound):
        pass
    try:
        found, _ = list_all(api, DEPLOYMENT, None, selector=_SELECTOR)
    except Forbidden:
        add_unseen(findings, [f"the training operator (deployment {NAME})"], NAMESPACE)
        return None
    if found:
        return found[0]
    findings.add(
        "training-operator-missing",
        where="cluster",
        what=f"no deployment is labelled {_SELECTOR}, so nobody acts on PyTorchJobs",
        remedy=OPERATOR_REMEDY,
    )
    return None


def _find_template(operator: Object) -> tuple[str | None, str] | None:
    """ConfigMap and key of the template of the init container; the file's path alone if it is in no ConfigMap.

    None: nothing is mounted there, and what is built in counts.
    """
    pod = operator["spec"]["template"]["spec"]
    container = pod["containers"][0]
    path = PurePosixPath(_option([*(container.get("command") or ()), *(container.get("args") or ())]))
    volumes: dict[str, Any] = {one["name"]: one for one in pod.get("volumes") or ()}
    for mount in container.get("volumeMounts") or ():
        root = PurePosixPath(mount["mountPath"])
        if not path.is_relative_to(root):
            continue
        key = str(mount.get("subPath") or "") if path == root else path.relative_to(root).as_posix()
        config = volumes.get(mount["name"], {}).get("configMap")
        if config is None:
            return None, str(path)
        keys = {item["path"]: item["key"] for item in config.get("items") or ()}
        return config["name"], keys.get(key, key)
    return None


def _option(words: list[str]) -> str:
    for number, word in enumerate(words):
        option, is_given, value = word.partition("=")
        if f"--{option.lstrip('-')}" == _OPTION:
            return value if is_given else next(iter(words[number + 1 :]), _USUAL_FILE)
    return _USUAL_FILE


def _parse(template: str, where: str, findings: Collector) -> list[Object] | None:
    try:
        containers = parse_yaml(_FIELD.sub("x", template)).value
    except NotReadable as error:
        containers, why = None, str(error)
    else:
        why = "it is no list of containers"
    if isinstance(containers, list) and all(isinstance(one, dict) and "name" in one for one in containers):
        return containers
    what = f"the training operator cannot read it ({why}), so no training of several pods begins"
    findings.take(
        "training-operator-settings", [Fault(where=where, what=what, remedy=OPERATOR_REMEDY)], cause="configuration"
    )
    return None
