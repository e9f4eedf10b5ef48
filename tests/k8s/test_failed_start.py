from __future__ import annotations

from pathlib import Path

import pytest

from k8s.local import cluster
from k8s.local.__main__ import main
from k8s.local.faults import Fault
from k8s.local.layout import Layout
from k8s.local.traces import traces


def test_without_root_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["k8s.local", "up"])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main() == 78
    said = capsys.readouterr().err
    assert said.startswith("k8s.local: a node needs root: ")
    assert said.count("\n") == 1


def test_a_start_that_fails_half_way_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    folders = Layout(folder=tmp_path)
    folders.registry.write_text("not the folder that the registry needs")
    with cluster.locked(wait=True):
        before = traces(folders)
        with pytest.raises(Fault, match="FileExistsError"):
            cluster.up(folders)
        assert not cluster.is_up(folders)
        assert not traces(folders) ^ before
        cluster.down(folders)
