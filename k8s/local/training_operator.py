"""The training operator, from its own manifests with the component that k8s/training-operator ships."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from k8s.local import layout, tools
from k8s.local.control_plane import ControlPlane
from k8s.local.faults import Fault
from k8s.local.kubectl import KubectlFailed, kubectl

TOOL = "training-operator"
SECONDS = 120.0
KUSTOMIZATION = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kubeflow
resources:
  - upstream/overlays/standalone
components:
  - component
images:
  - name: ghcr.io/kubeflow/training-v1/training-operator
    newName: {operator}
    newTag: v{version}
patches:
  - target:
      kind: Deployment
      name: training-operator
    patch: |-
      - op: add
        path: /spec/template/spec/containers/0/args/-
        value: --pytorch-init-container-image={small}
      - op: add
        path: /spec/template/spec/containers/0/args/-
        value: --enable-scheme=pytorchjob
      # Ready is looked at every second, not first after ten.
      - op: replace
        path: /spec/template/spec/containers/0/readinessProbe
        value:
          httpGet:
            path: /readyz
            port: 8081
          periodSeconds: 1
"""


def install_crds(kubeconfig: Path) -> None:
    """Have the API server know PyTorchJobs; nobody acts on them."""
    crds = _manifests(tools.built(TOOL)[TOOL]) / "base" / "crds"
    kubectl(kubeconfig, "apply", "--server-side", "-f", str(crds / "kubeflow.org_pytorchjobs.yaml"))
    ended = time.monotonic() + SECONDS
    while not _served(kubeconfig):
        if time.monotonic() > ended:
            raise Fault(f"the API server does not serve PyTorchJobs after {SECONDS:.0f} s")
        time.sleep(0.05)


def install(plane: ControlPlane) -> None:
    """Apply everything; wait_until_ready sees whether it works."""
    binary = tools.built(TOOL)[TOOL]
    folder = plane.folder / "training-operator"
    folder.mkdir()
    shutil.copytree(_manifests(binary), folder / "upstream")
    # The definitions of the five other kinds of jobs take the API server 6 s and serve nobody here.
    crds = folder / "upstream" / "base" / "crds" / "kustomization.yaml"
    crds.write_text("resources: [kubeflow.org_pytorchjobs.yaml]\n")
    shutil.copytree(tools.HERE.parent / "training-operator", folder / "component")
    version = binary.rpartition("-v")[2]
    (folder / "kustomization.yaml").write_text(
        KUSTOMIZATION.format(operator=layout.OPERATOR_IMAGE, small=layout.SMALL_IMAGE, version=version)
    )
    plane.run_kubectl("apply", "--server-side", "-k", str(folder))


def wait_until_ready(plane: ControlPlane) -> None:
    """Return when the operator's webhook answers."""
    ended = time.monotonic() + SECONDS
    while True:
        status = json.loads(
            plane.run_kubectl("get", "deployment", "training-operator", "-n", "kubeflow", "-o", "json")
        )["status"]
        if status.get("availableReplicas"):
            return
        if time.monotonic() > ended:
            raise Fault(
                f"the training operator is not ready after {SECONDS:.0f} s: "
                "kubectl -n kubeflow describe pod, kubectl -n kubeflow logs deployment/training-operator"
            )
        time.sleep(0.1)


def _served(kubeconfig: Path) -> bool:
    try:
        return "pytorchjobs" in kubectl(kubeconfig, "get", "--raw", "/apis/kubeflow.org/v1")
    except KubectlFailed:
        return False


def _manifests(binary: str) -> Path:
    return Path(f"{binary}.manifests")
