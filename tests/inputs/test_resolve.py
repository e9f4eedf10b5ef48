"""From a reference to a path: folders, trees of a bucket, and a hub that may be away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import huggingface_hub
import pytest

from tandem.errors import BadConfiguration, Unavailable
from tandem.inputs import Resolver
from tandem.store import open_store, upload_tree
from tests.disks import small_disk
from tests.inputs.hub import COMMIT, hub_running
from tests.servers import S3Server

AWAY = "http://127.0.0.1:9"


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


def resolve_from_hub(endpoint: str, home: Path, model: str, revision: str = COMMIT) -> str:
    """What a process that asks this hub prints: the folder, or the type and the line of what went wrong."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tandem.errors import TandemError\n"
        "from tandem.inputs import Resolver\n"
        "try:\n"
        "    print(Resolver(folder=Path('/'), cache=Path('/')).resolve(*sys.argv[1:]))\n"
        "except TandemError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, model, revision],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_a_hub_that_is_away_is_temporary_and_says_what_to_do(tmp_path: Path) -> None:
    said = resolve_from_hub(AWAY, tmp_path, "team/model")
    assert said.startswith(f"Unavailable team/model@{COMMIT}: the hub cannot be reached")
    assert "HF_ENDPOINT" in said


def test_a_mirror_brings_weights_and_settings_of_a_commit_and_is_not_needed_again(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights", "modeling_evil.py": b"print('no')"}
    with hub_running("team/model", files) as mirror:
        folder = Path(resolve_from_hub(mirror, tmp_path, "team/model"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    assert resolve_from_hub(AWAY, tmp_path, "team/model") == str(folder)


@pytest.mark.parametrize(
    ("model", "revision", "kind"),
    [
        ("team/other", COMMIT, "RepositoryNotFoundError"),
        ("team/gated", COMMIT, "GatedRepoError"),
        ("team/model", COMMIT[::-1], "RevisionNotFoundError"),
    ],
)
def test_what_the_hub_refuses_is_permanent_and_says_what_to_mend(
    tmp_path: Path, model: str, revision: str, kind: str
) -> None:
    with hub_running("team/model", {"config.json": b"{}"}) as mirror:
        said = resolve_from_hub(mirror, tmp_path, model, revision)
    assert said == (
        f"BadConfiguration {model}@{revision}: the hub refuses it ({kind}). "
        "Mend the id or the revision, or set HF_TOKEN for a gated model."
    )


@pytest.mark.parametrize("model", ["foo--bar", "a..b", "x/y.git", "models/my-model-", "caf\u00e9", "a" * 97])
def test_an_id_that_no_model_of_the_hub_can_have_is_permanent_and_says_what_to_mend(tmp_path: Path, model: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        Resolver(folder=tmp_path, cache=tmp_path).resolve(model, COMMIT)
    assert str(caught.value) == (
        f"{model}@{COMMIT}: is neither a path on this machine nor an id that the hub can have. Mend the path, or the "
        "id: names of at most 96 ASCII letters, digits, '-', '_' and '.', without '--' and '..', that neither begin "
        "nor end with '-' or '.' nor end with '.git'."
    )


def test_a_hub_that_resets_in_the_middle_of_a_file_is_as_one_that_is_away(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights" * 100_000}
    with hub_running("team/model", files, resets="model.safetensors") as mirror:
        said = resolve_from_hub(mirror, tmp_path, "team/model")
    assert said == (
        f"Unavailable team/model@{COMMIT}: the hub cannot be reached (ReadError). "
        "Set HF_ENDPOINT to a mirror, or give a folder or an s3:// URI as the model's source."
    )


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError,
        httpx2.ProxyError,
        httpx2.ReadTimeout,
        httpx2.RemoteProtocolError,
        httpx2.WriteError,
        ConnectionResetError,
    ],
)
def test_whatever_becomes_of_the_connection_it_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error("gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(Unavailable, match=rf"the hub cannot be reached \({error.__name__}\)"):
        Resolver(folder=tmp_path, cache=tmp_path).resolve("team/model", COMMIT)


def test_a_disk_without_room_for_the_model_is_named_instead_of_the_hub(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights" * 100_000}
    with small_disk(tmp_path / "disk", 256) as home, hub_running("team/model", files) as mirror:
        said = resolve_from_hub(mirror, home, "team/model")
    assert said == (
        f"BadConfiguration {tmp_path}/disk/hub: the disk is full (No space left on device). Make room on it"
    )
