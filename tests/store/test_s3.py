"""A bucket behind a bad network, with wrong settings, and on a server that cannot be trusted."""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration, TandemError, Unavailable
from tandem.store import AlreadyThere, Corrupt, FileDigest, NotThere, probe
from tandem.store.files import digest_of
from tandem.store.retrying import Retrying
from tandem.store.s3 import Bucket, connect
from tests.servers import Broken, FaultyProxy, S3Server, free_port, proxy_running, versitygw_in
from tests.store.conftest import SMALL, new_bucket

READ_SECONDS = 3.0
"""How long a client here waits for a server that hangs."""

TEMPORARY = [
    Broken.SLOW_DOWN,
    Broken.INTERNAL_ERROR,
    Broken.TOO_MANY,
    Broken.CONFLICT,
    Broken.HANG,
    Broken.RESET,
    Broken.LOSE_ANSWER,
]


@pytest.fixture(params=["moto", "versitygw"])
def server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue({"moto": "moto_server"}.get(request.param, request.param))
    return server


@pytest.fixture
def bucket(server: S3Server) -> str:
    return new_bucket(server)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    with proxy_running(server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def retrying(waits: list[float]) -> Retrying:
    return Retrying(attempts=4, first_seconds=1, sleep=waits.append, clock=lambda: 0.0, random=lambda: 0.5)


@pytest.fixture
def store(server: S3Server, proxy: FaultyProxy, bucket: str, retrying: Retrying) -> Bucket:
    client = server.client(endpoint=proxy.endpoint, read_seconds=READ_SECONDS)
    return Bucket(client, bucket, transfer=SMALL, retrying=retrying)


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(hashlib.shake_128(b"big").digest(11 * 1024 * 1024))
    return path


def one_line(error: pytest.ExceptionInfo[TandemError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("broken", TEMPORARY)
def test_a_write_outlasts_what_is_temporary(
    store: Bucket, proxy: FaultyProxy, waits: list[float], broken: Broken
) -> None:
    proxy.breaks = deque([broken] * 3)
    store.put_if_absent("key", b"body")
    assert store.get("key") == b"body"
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("size", [5, 11 * 1024 * 1024])
def test_what_a_crash_of_the_server_left_of_an_object_costs_the_attempt_and_not_the_run(
    tmp_path: Path, size: int
) -> None:
    """Killed between an object's metadata and its bytes, versitygw refuses the key and has nothing to show for it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with versitygw_in(tmp_path) as gateway:
        name = new_bucket(gateway.server)
        store = Bucket(gateway.server.client(), name, transfer=SMALL, retrying=Retrying(sleep=fail_to_wait))
        store.put_if_absent("whole", b"whole")
        (tmp_path / "metadata" / name / "half").mkdir()
        shutil.copytree(tmp_path / "metadata" / name / "whole" / "meta", tmp_path / "metadata" / name / "half" / "meta")
        with pytest.raises(Unavailable, match="refuses to write it as if it were there") as error:
            store.put_file_if_absent("half", path)
        assert f"s3://{name}/half" in one_line(error)
        store.put_file_if_absent("other", path)


@pytest.mark.parametrize("broken", [*TEMPORARY, Broken.CUT_ANSWER])
def test_a_read_outlasts_what_is_temporary(
    store: Bucket, proxy: FaultyProxy, waits: list[float], tmp_path: Path, broken: Broken
) -> None:
    body = bytes(300_000)
    store.put_if_absent("key", body)
    for read in (
        lambda: store.get("key"),
        lambda: store.get_file("key", tmp_path / "new", digest_of(body)),
        lambda: store.digest("key"),
        lambda: list(store.list("")),
    ):
        waits.clear()
        proxy.method, proxy.breaks = "GET", deque([broken])
        read()
        assert waits == [0.5]
    assert (tmp_path / "new").read_bytes() == body


@pytest.mark.parametrize("broken", [Broken.SLOW_DOWN, Broken.HANG, Broken.RESET, Broken.LOSE_ANSWER])
@pytest.mark.parametrize("step", [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId=")])
def test_every_step_of_a_big_upload_outlasts_what_is_temporary(
    store: Bucket, proxy: FaultyProxy, big_file: Path, step: tuple[str, str], broken: Broken
) -> None:
    proxy.method, proxy.query = step
    proxy.breaks = deque([broken])
    digest = store.put_file_if_absent("big", big_file)
    assert not proxy.breaks
    assert store.digest("big") == digest


def test_a_write_whose_answer_was_lost_is_still_no_licence_to_win_twice(store: Bucket, proxy: FaultyProxy) -> None:
    proxy.breaks = deque([Broken.LOSE_ANSWER])
    store.put_if_absent("key", b"same")
    with pytest.raises(AlreadyThere):
        store.put_if_absent("key", b"same")


def test_a_rival_that_wins_between_two_attempts_is_noticed(
    server: S3Server, proxy: FaultyProxy, bucket: str, retrying: Retrying
) -> None:
    rival = Bucket(server.client(), bucket)
    interrupted = replace(retrying, sleep=lambda _: rival.put_if_absent("key", b"same bytes"))
    ours = Bucket(server.client(endpoint=proxy.endpoint), bucket, retrying=interrupted)
    proxy.breaks = deque([Broken.RESET])
    with pytest.raises(AlreadyThere):
        ours.put_if_absent("key", b"same bytes")


def test_a_lost_race_with_a_big_file_leaves_no_parts_behind(
    server: S3Server, proxy: FaultyProxy, bucket: str, retrying: Retrying, big_file: Path
) -> None:
    rival = Bucket(server.client(), bucket)
    interrupted = replace(retrying, sleep=lambda _: rival.put_if_absent("big", b"rival"))
    ours = Bucket(server.client(endpoint=proxy.endpoint), bucket, transfer=SMALL, retrying=interrupted)
    proxy.method, proxy.query, proxy.breaks = "POST", "uploadId=", deque([Broken.SLOW_DOWN])
    with pytest.raises(AlreadyThere):
        ours.put_file_if_absent("big", big_file)
    assert rival.get("big") == b"rival"
    assert "Uploads" not in server.client().list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("broken", [Broken.INTERNAL_ERROR, Broken.RESET])
def test_patience_ends_with_one_line_that_says_how_often_it_was_tried(
    store: Bucket, proxy: FaultyProxy, waits: list[float], broken: Broken
) -> None:
    proxy.breaks = deque([broken] * 99)
    with pytest.raises(Unavailable, match="tried 4 times") as error:
        store.put_if_absent("key", b"")
    assert proxy.endpoint in one_line(error)
    assert len(waits) == 3
    assert len(proxy.breaks) == 95


def every_use(store: Bucket, tmp_path: Path) -> list[Callable[[], object]]:
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(6 * 1024 * 1024))
    return [
        lambda: store.put_if_absent("key", b"x"),
        lambda: store.put_file_if_absent("key", tmp_path / "small"),
        lambda: store.put_file_if_absent("key", tmp_path / "large"),
        lambda: store.get("key"),
        lambda: store.get_file("key", tmp_path / "new", FileDigest(size=1, sha256="0" * 64)),
        lambda: store.digest("key"),
        lambda: list(store.list("")),
        lambda: probe(store),
    ]


def test_a_missing_bucket_is_one_clear_line_at_once(
    server: S3Server, retrying: Retrying, waits: list[float], tmp_path: Path
) -> None:
    store = Bucket(server.client(), "no-such-bucket", transfer=SMALL, retrying=retrying)
    for use in every_use(store, tmp_path):
        with pytest.raises(BadConfiguration, match="there is no such bucket") as error:
            use()
        assert "s3://no-such-bucket" in one_line(error)
    assert waits == []


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"secret_key": "not-it"}, "the secret key is wrong"),
        ({"access_key": "not-it"}, "the access key is not known"),
    ],
)
def test_wrong_credentials_are_one_clear_line_at_once(
    versitygw: S3Server, tmp_path: Path, wrong: dict[str, str], what: str
) -> None:
    client = replace(versitygw, **wrong).client()
    store = Bucket(client, new_bucket(versitygw), transfer=SMALL, retrying=Retrying(sleep=fail_to_wait))
    with pytest.raises(BadConfiguration, match=what) as error:
        store.put_if_absent("key", b"x")
    assert "AWS_SECRET_ACCESS_KEY" in one_line(error)
    assert "not-it" not in str(error.value)
    for use in every_use(store, tmp_path):
        with pytest.raises(BadConfiguration):
            use()


def fail_to_wait(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s for what is permanent")


def test_no_credentials_at_all_are_one_clear_line(
    versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store = Bucket(connect(endpoint=versitygw.endpoint, region="us-east-1"), "bucket")
    with pytest.raises(BadConfiguration, match="there are no credentials") as error:
        store.get("key")
    one_line(error)


def test_a_stopped_server_is_unavailable_after_all_attempts(
    moto_server: S3Server, retrying: Retrying, waits: list[float], tmp_path: Path
) -> None:
    stopped = replace(moto_server, endpoint=f"http://127.0.0.1:{free_port()}")
    store = Bucket(stopped.client(), "bucket", transfer=SMALL, retrying=retrying)
    for use in every_use(store, tmp_path):
        waits.clear()
        with pytest.raises(Unavailable, match="tried 4 times") as error:
            use()
        assert stopped.endpoint in one_line(error)
        assert len(waits) == 3


def test_settings_that_cannot_work_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfiguration, match="Invalid endpoint") as error:
        connect(endpoint="127.0.0.1:9000")
    one_line(error)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BadConfiguration, match="nobody") as error:
        connect()
    one_line(error)


def test_a_server_that_speaks_no_tls_is_no_traceback(moto_server: S3Server, retrying: Retrying) -> None:
    wrong = replace(moto_server, endpoint=moto_server.endpoint.replace("http:", "https:"))
    with pytest.raises(Unavailable) as error:
        Bucket(wrong.client(), "bucket", retrying=retrying).get("key")
    one_line(error)


def test_the_probe_refuses_a_server_that_ignores_put_if_absent(moto_server: S3Server) -> None:
    with proxy_running(moto_server.endpoint) as proxy:
        proxy.ignores_conditions = True
        store = Bucket(moto_server.client(endpoint=proxy.endpoint), new_bucket(moto_server))
        for _ in range(2):
            with pytest.raises(BadConfiguration, match="ignores put-if-absent") as error:
                probe(store)
            assert store.url in one_line(error)


def test_a_body_that_does_not_fit_its_recorded_digest_is_corrupt(server: S3Server, bucket: str) -> None:
    store, client = Bucket(server.client(), bucket), server.client()
    store.put_if_absent("key", b"right")
    metadata = client.head_object(Bucket=bucket, Key="key")["Metadata"]
    client.put_object(Bucket=bucket, Key="key", Body=b"wrong", Metadata=metadata)
    with pytest.raises(Corrupt, match="key"):
        store.get("key")


def test_two_prefixes_of_a_bucket_do_not_see_each_other(server: S3Server, bucket: str) -> None:
    one, two = (Bucket(server.client(), bucket, prefix) for prefix in ("one", "one-more"))
    one.put_if_absent("key", b"")
    with pytest.raises(NotThere):
        two.get("key")
    assert list(two.list("")) == []
    assert [entry.key for entry in one.list("")] == ["key"]
