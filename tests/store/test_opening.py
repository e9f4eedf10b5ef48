"""Addresses of stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration, Unavailable
from tandem.store import open_store, probe
from tests.servers import S3Server, free_port
from tests.store.conftest import new_bucket


def test_a_folder_may_be_written_in_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ü b").mkdir()
    expected = f"{tmp_path.as_uri()}/%C3%BC%20b"
    for url in ("ü b", "./ü b", f"{tmp_path}/ü b", expected, expected.replace("file://", "file://localhost")):
        assert open_store(url).url == expected
    monkeypatch.chdir(tmp_path / "ü b")
    assert open_store(".").url == expected


def test_a_bucket_is_found_by_the_standard_variables(versitygw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in versitygw.environment().items():
        monkeypatch.setenv(name, value)
    bucket = new_bucket(versitygw)
    store = open_store(f"s3://{bucket}/team/runs/")
    assert store.url == f"s3://{bucket}/team/runs"
    probe(store)
    assert [entry.key for entry in open_store(f"s3://{bucket}").list("")] == ["team/runs/.probe/put-if-absent"]


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://host/x", "gs://bucket/x", "file:/x", "file://host/x", "\n"),
        *("s3://", "s3:///x", "s3:bucket", "s3://a_/x", "s3://UP&/x", "s3://bucket/../x"),
    ],
)
def test_any_other_address_is_one_clear_line(url: str) -> None:
    with pytest.raises(BadConfiguration, match="not a store's address") as error:
        open_store(url)
    assert "\n" not in str(error.value)
    assert "./folder" in str(error.value)


def test_importing_the_room_is_cheap_and_opening_a_folder_needs_no_boto3() -> None:
    script = (
        "import sys, tandem.store; light = set(sys.modules); tandem.store.open_store('./x');"
        "print([m for m in ('boto3', 'botocore', 'torch', 'pydantic') if m in light],"
        "[m for m in ('boto3', 'botocore', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_how_long_a_bucket_is_waited_for_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        S3Server(endpoint=f"http://127.0.0.1:{free_port()}", access_key="a", secret_key="b").environment().items()
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TANDEM_STORE_RETRY_SECONDS", "0")
    with pytest.raises(Unavailable, match="tried once"):
        open_store("s3://bucket").get("key")
    with pytest.raises(Unavailable, match="tried once"):
        open_store("s3://bucket", brief=True).get("key")
    for wrong in ("", "soon", "-1", "nan", "inf"):
        monkeypatch.setenv("TANDEM_STORE_RETRY_SECONDS", wrong)
        with pytest.raises(BadConfiguration, match="no length of time"):
            open_store("s3://bucket")


def test_who_waits_for_a_bucket_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3Server(endpoint=f"http://127.0.0.1:{free_port()}", access_key="a", secret_key="b")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tandem.store.retrying.QUIET_SECONDS", 0.0)
    monkeypatch.setenv("TANDEM_STORE_RETRY_SECONDS", "0.5")
    said: list[str] = []
    with pytest.raises(Unavailable):
        open_store("s3://bucket", say=said.append).get("key")
    (line,) = said
    assert line.startswith(f"s3://bucket at {server.endpoint}: no answer from the server: ")
    assert len(line.splitlines()) == 1
