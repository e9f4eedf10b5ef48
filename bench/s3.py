"""Time a tree to and from an S3 server against boto3 file by file: `python -m bench.s3 [--megabytes N]`; prints JSON.

versitygw on the loopback, its objects in a folder. Ours verifies: every file's SHA-256 is taken on both ways, every
request is signed with its body's, files are written if absent and the manifest last. Plain is upload_file and
download_file with boto3's own settings, which verify less, one file after the other, and again with as many files at
once as ours.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.store import download_tree, upload_tree
from tandem.store.s3 import Bucket, connect
from tests.servers import S3Server, versitygw_running

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AT_ONCE = 8
"""Files in flight: upload_tree's default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="of the tree")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, versitygw_running(make_folder(name, "server")) as server:
        folder = Path(name)
        tree = make_tree(folder / "tree", options.megabytes)
        client = plain_client(server)
        client.create_bucket(Bucket="bench")
        store = Bucket(
            connect(endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key), "bench", "us"
        )
        up = {
            "ours": measure(lambda: upload_tree(store, folder / "tree", "tree", parallel=AT_ONCE)),
            "plain": measure(lambda: send(client, folder / "tree", tree, "plain", at_once=1)),
            "plain_at_once": measure(lambda: send(client, folder / "tree", tree, "at-once", at_once=AT_ONCE)),
        }
        down = {
            "ours": measure(lambda: download_tree(store, "tree", folder / "ours", parallel=AT_ONCE)),
            "plain": measure(lambda: receive(client, folder / "plain", tree, "plain", at_once=1)),
            "plain_at_once": measure(lambda: receive(client, folder / "at-once", tree, "at-once", at_once=AT_ONCE)),
        }
        assert all((folder / "ours" / path).read_bytes() == (folder / "tree" / path).read_bytes() for path in tree)
        size = sum((folder / "tree" / path).stat().st_size for path in tree)
    directions = {
        direction: {
            "seconds": {way: round(spent, 2) for way, spent in seconds.items()},
            "megabytes_per_second": {way: round(size / 1e6 / spent) for way, spent in seconds.items()},
            "times_faster": round(seconds["plain"] / seconds["ours"], 2),
            "times_faster_than_at_once": round(seconds["plain_at_once"] / seconds["ours"], 2),
        }
        for direction, seconds in (("up", up), ("down", down))
    }
    print(json.dumps({"files": len(tree), "megabytes": size / 1e6, **directions}))


def make_folder(*parts: str) -> Path:
    folder = Path(*parts)
    folder.mkdir(parents=True)
    return folder


def make_tree(folder: Path, megabytes: int) -> list[str]:
    """Four large files, as a model has, with nine tenths of the bytes, and a hundred small ones; their names."""
    draw = random.Random(0)  # noqa: S311
    sizes = {f"model-{number}.safetensors": megabytes * 225_000 for number in range(4)}
    sizes |= {f"small/{number:03d}.json": megabytes * 1_000 for number in range(100)}
    (folder / "small").mkdir(parents=True)
    for name, size in sizes.items():
        (folder / name).write_bytes(draw.randbytes(size))
    return list(sizes)


def plain_client(server: S3Server) -> S3Client:
    """boto3's own, but for where the server is."""
    import boto3

    client: S3Client = boto3.session.Session(region_name=server.region).client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    return client


def send(client: S3Client, folder: Path, tree: list[str], prefix: str, *, at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda path: client.upload_file(str(folder / path), "bench", f"{prefix}/{path}"), tree))


def receive(client: S3Client, folder: Path, tree: list[str], prefix: str, *, at_once: int) -> None:
    for path in tree:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda path: client.download_file("bench", f"{prefix}/{path}", str(folder / path)), tree))


def measure(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
