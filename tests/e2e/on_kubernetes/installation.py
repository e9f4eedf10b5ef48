"""What the tests install: real images by digest, two fake GPUs, a profile that is wrong on purpose."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from k8s.local import cluster as local
from k8s.local import layout
from tests.charts.helm import merged
from tests.charts.places import CHART, ROOT
from tests.cluster import Cluster
from tests.e2e.demo_run import FILE, prepare_inputs
from tests.images.built import build_images

GPUS = 2
STEPS = 40
SMALLER = (
    (r"^  seed: 0$", "  seed: 0\n  limit: 120"),
    (r"steps: \d+", f"steps: {STEPS}"),
    (r"everySteps: \d+", "everySteps: 5"),
    (r"maxNewTokens: \d+", r"\g<0>, shards: 2"),
)
"""What makes the demo short enough: it is for the same figures on both sides, not for good ones."""


def prepare_desk(folder: Path) -> Path:
    """A folder as a clone of the repository is, with the demo's inputs and a smaller demo."""
    prepare_inputs(folder)
    text = (folder / FILE).read_text()
    for pattern, new in SMALLER:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, pattern
    (folder / FILE).write_text(text)
    shutil.copytree(ROOT / "charts", folder / "charts")
    return folder


def write_values(folder: Path, cluster: Cluster) -> None:
    """values.yaml, for images that are built and pushed here."""
    images = {kind: name.partition("@")[2] for kind, name in build_images(registry=cluster.registry).items()}
    assert all(digest.startswith("sha256:") for digest in images.values())
    values = merged(
        yaml.safe_load((CHART / "ci" / "cpu-demo-values.yaml").read_text()),
        {
            "s3": {"endpoint": cluster.s3.endpoint, "region": cluster.s3.region},
            "image": {
                "registry": cluster.registry,
                "requireDigest": True,
                **{kind: {"digest": digest} for kind, digest in images.items()},
            },
            "profiles": {
                "train-cpu-demo": {"gpusPerPod": 1, **_small()},
                "generate-cpu-demo": _small(),
                "score-cpu-demo": _small(),
                "train-by-tag": {
                    "pods": 2,
                    "gracePeriodSeconds": 420,
                    "image": {"repository": "tandem-train", "tag": "latest"},
                    **_small(),
                },
            },
        },
    )
    (folder / "values.yaml").write_text(yaml.safe_dump(values))


def write_schedule(folder: Path, run: Any) -> None:
    """schedule.yaml: at every minute such a Run, one that is suspended and takes no GPU from others."""
    waiting = {**run, "spec": {**run["spec"], "desired": "Suspended"}}
    schedule = {"name": "nightly", "cron": "* * * * *", "run": waiting}
    (folder / "schedule.yaml").write_text(yaml.safe_dump({"schedules": [schedule]}))


def give_gpus(cluster: Cluster) -> None:
    """Have the node of the local cluster say that it has GPUs; a cluster of one's own has some."""
    if cluster.registry == layout.REGISTRY:
        local.set_gpus(layout.default(), GPUS)


def _small() -> dict[str, Any]:
    """All pods of a Run find room beside each other on two cores."""
    return {"resources": {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}}
