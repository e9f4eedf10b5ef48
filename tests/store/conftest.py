"""The stores that the contract is tested on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem.store.contract import Store
from tandem.store.directory import Directory
from tandem.store.s3 import Bucket, Transfer
from tests.servers import S3Server

SMALL = Transfer(part_bytes=5 * 1024 * 1024, page=100)
"""The smallest parts that S3 allows, and pages that a thousand objects do not fit on."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A store, and a way to change what it keeps behind its back."""

    store: Store
    overwrite: Callable[[str, bytes], None]
    remove: Callable[[str], None]
    environment: Mapping[str, str]
    """The variables that its address needs."""


def new_bucket(server: S3Server) -> str:
    """The name of a fresh bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "moto", "versitygw"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "folder":
        root = tmp_path / "store"
        return Kept(
            store=Directory(root),
            overwrite=lambda key, body: void((root / key).write_bytes(body)),
            remove=lambda key: (root / key).unlink(),
            environment={},
        )
    server: S3Server = request.getfixturevalue({"moto": "moto_server"}.get(request.param, request.param))
    client, bucket = server.client(), new_bucket(server)
    return Kept(
        store=Bucket(client, bucket, "some/prefix", transfer=SMALL),
        overwrite=lambda key, body: void(client.put_object(Bucket=bucket, Key=f"some/prefix/{key}", Body=body)),
        remove=lambda key: void(client.delete_object(Bucket=bucket, Key=f"some/prefix/{key}")),
        environment=server.environment(),
    )


@pytest.fixture
def store(kept: Kept) -> Store:
    return kept.store


def void(_: object) -> None:
    """Forget an answer."""
