"""Debian packages are installed by one process at a time, and only where they are missing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from k8s.local import machine
from k8s.local.faults import Fault


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that lacks one program, and an apt-get that brings it, keeps a list of its calls, and fails for two
    at once."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = f"""#!/bin/sh
mkdir {tmp_path}/busy || exit 100
echo "$*" >> {tmp_path}/calls
[ "$1" = update ] || touch {folder}/wanted
[ "$1" = update ] || chmod +x {folder}/wanted
rmdir {tmp_path}/busy
"""
    (folder / "apt-get").write_text(script)
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setattr(machine, "PACKAGES", {"wanted": "wanted-package"})
    monkeypatch.setattr(machine, "NO_SERVICES", tmp_path / "policy-rc.d")
    monkeypatch.setattr(machine, "PACKAGES_LOCK", tmp_path / "lock" / "packages")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return folder


def test_of_two_that_miss_a_package_at_once_one_installs_it(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)
    look, first = machine._missing, [True, True]

    def look_together() -> list[str]:
        found = look()
        if first:
            first.pop()
            both.wait(timeout=10)
        return found

    monkeypatch.setattr(machine, "_missing", look_together)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(machine.install_packages) for _ in range(2)]:
            done.result()
    calls = (programs.parent / "calls").read_text().splitlines()
    assert calls == ["update -qq", "install -y -qq --no-install-recommends wanted-package"]
    assert not machine.NO_SERVICES.exists()


def test_where_nothing_is_missing_apt_get_is_not_asked(programs: Path) -> None:
    machine.install_packages()
    machine.install_packages()
    assert len((programs.parent / "calls").read_text().splitlines()) == 2


def test_without_root_a_line_says_what_is_missing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Fault, match="lacks wanted-package: let root"):
        machine.install_packages()
    assert not (programs.parent / "calls").exists()
