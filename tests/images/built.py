"""The real images, built on this machine from a base that is made on the spot."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from k8s.local import machine

ROOT = Path(__file__).parents[2]
KINDS = ("train", "eval", "controller")
BUILDAH = ROOT / "k8s" / "local" / "buildah"
"""With images and settings of its own: the machine's are left alone."""


def build_images(*, registry: str | None = None, kinds: tuple[str, ...] = KINDS) -> dict[str, str]:
    """Build (and push, if a registry is given) and return each kind's reference; layers that did not change are kept.

    One process of this machine at a time: they share the builder's store.
    """
    environment = {**os.environ, "BUILDER": str(BUILDAH), "BASE": "local", "REGISTRY_TLS": "no"}
    if "SSL_CERT_FILE" in os.environ:
        environment["CA"] = os.environ["SSL_CERT_FILE"]
    options = [] if registry is None else ["--registry", registry]
    with Path(tempfile.gettempdir(), "tandem-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine.install_packages()
        done = subprocess.run(
            [ROOT / "images" / "build", *options, *kinds],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(kinds, done.stdout.split(), strict=True))
