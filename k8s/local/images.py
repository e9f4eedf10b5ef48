"""The cluster's own images, made of files of this machine: no registry is asked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from k8s.local import layout, tools
from k8s.local.faults import Fault

SMALL_FILES = ("/bin/busybox", "/usr/bin/getent")
"""A shell with its usual tools, linked statically; and what looks up a name as every program does."""


def archives(operator: str) -> list[Path]:
    """Archives of all images, from the cache where they are as they would be made now."""
    version = operator.rpartition("-v")[2]
    with tempfile.TemporaryDirectory() as scratch:
        small, root = Path(scratch, "small"), Path(scratch, "operator")
        for file in _with_libraries(SMALL_FILES):
            _copy(Path(file), small / "root" / file.lstrip("/"))
        (small / "root" / "tmp").mkdir(mode=0o1777)
        applets = subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
        for applet in sorted(set(applets) - {"busybox"}):
            (small / "root" / "bin" / applet).symlink_to("busybox")
        _copy(Path(operator), root / "manager")
        return [
            _archive(layout.SMALL_IMAGE, tools.HERE / "small" / "Dockerfile", small),
            _archive(f"{layout.OPERATOR_IMAGE}:v{version}", tools.HERE / "training-operator" / "Dockerfile", root),
        ]


def push(archive: Path, name: str) -> str:
    """Push the image of an archive under a name with registry and tag; return the name by digest, as pods take it."""
    with tempfile.NamedTemporaryFile("r") as digest:
        image = _buildah("pull", "-q", f"oci-archive:{archive}").strip()
        _buildah("push", "-q", "--digestfile", digest.name, image, f"docker://{name}")
        return f"{name.rpartition(':')[0]}@{digest.read().strip()}"


def _with_libraries(programs: tuple[str, ...]) -> list[str]:
    files = list(programs)
    for program in programs:
        answer = subprocess.run(["ldd", program], check=False, capture_output=True, text=True)
        files += [word for line in answer.stdout.splitlines() for word in line.split() if word.startswith("/")]
    return sorted(set(files))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _archive(name: str, dockerfile: Path, context: Path) -> Path:
    digest = hashlib.sha256(dockerfile.read_bytes())
    for file in sorted(context.rglob("*")):
        digest.update(f"{file.relative_to(context)}\0".encode())
        digest.update(str(file.readlink()).encode() if file.is_symlink() else b"")
        digest.update(file.read_bytes() if file.is_file() and not file.is_symlink() else b"")
    short = name.rpartition("/")[2].replace(":", "-")
    archive = tools.cache() / "cluster" / "images" / f"{short}-{digest.hexdigest()[:16]}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        new = archive.with_suffix(".new")
        new.unlink(missing_ok=True)
        _buildah("bud", "-q", "--timestamp", "0", "-f", str(dockerfile), "-t", name, str(context))
        _buildah("push", "-q", name, f"oci-archive:{new}:{name}")
        new.rename(archive)
    return archive


def _buildah(*arguments: str) -> str:
    answer = subprocess.run([tools.HERE / "buildah", *arguments], check=False, capture_output=True, text=True)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["(it says nothing)"]
        raise Fault(f"buildah {arguments[0]} ended with exit code {answer.returncode}: {lines[-1]}")
    return answer.stdout
