"""From a reference to a path: folders, trees of a bucket, and a hub that may be away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration
from tandem.inputs import Resolver
from tandem.store import open_store, upload_tree
from tests.servers import S3Server


def test_relative_paths_start_at_the_run_files_folder(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "model").mkdir()
    resolver = Resolver(folder=tmp_path / "jobs", cache=tmp_path / "cache")
    assert resolver.resolve("../model") == tmp_path / "model"
    assert resolver.resolve("model") is None


def test_a_member_of_a_pushed_tree_is_brought_once_and_verified(
    tmp_path: Path, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in versitygw.environment().items():
        monkeypatch.setenv(name, value)
    versitygw.client().create_bucket(Bucket="inputs-test")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eval.json").write_text("[]")
    upload_tree(open_store("s3://inputs-test/team"), tmp_path / "data", "inputs/sha256/1234/")
    resolver = Resolver(folder=tmp_path, cache=tmp_path / "cache")
    found = resolver.resolve("s3://inputs-test/team/inputs/sha256/1234/eval.json")
    assert found is not None
    assert found.read_text() == "[]"
    assert resolver.resolve("s3://inputs-test/team/inputs/sha256/1234/eval.json") == found
    with pytest.raises(BadConfiguration, match=r"has no manifest\.json at or above it"):
        resolver.resolve("s3://inputs-test/team/other/eval.json")


def test_a_hub_that_is_away_is_temporary_and_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from tandem.errors import Unavailable\n"
        "from tandem.inputs import Resolver\n"
        "try:\n"
        f"    Resolver(folder=Path({str(tmp_path)!r}), cache=Path({str(tmp_path)!r})).resolve('team/model', 'abc')\n"
        "except Unavailable as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("team/model@abc: the hub cannot be reached")
    assert "HF_ENDPOINT" in done.stdout
