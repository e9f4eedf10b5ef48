"""Whatever a server or a network does, what leaves the client is one of our errors."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kubernetes import client
from kubernetes.config import incluster_config, kube_config

from tandem.control import cluster
from tandem.control.api import (
    CONFIG_MAP,
    RUN,
    AlreadyExists,
    Busy,
    Conflict,
    Expired,
    Forbidden,
    NotFound,
    Refused,
)
from tandem.control.cluster import Cluster, connect
from tandem.errors import BadConfiguration, RetryableError, TandemError

ASK: dict[str, Callable[[Cluster], Any]] = {
    "serves": lambda cluster: cluster.serves(RUN),
    "get": lambda cluster: cluster.get(RUN, "n", "a"),
    "list": lambda cluster: cluster.list(RUN, "n"),
    "watch": lambda cluster: list(cluster.watch(RUN, "n", version="1", seconds=1)),
    "create": lambda cluster: cluster.create(RUN, "n", {"metadata": {"name": "a"}}),
    "delete": lambda cluster: cluster.delete(RUN, "n", "a", uid="u"),
    "merge": lambda cluster: cluster.merge(RUN, "n", "a", {}),
    "apply_status": lambda cluster: cluster.apply_status(RUN, "n", "a", {}, manager="m"),
    "read_log": lambda cluster: cluster.read_log("n", "a", "c"),
    "follow_log": lambda cluster: list(cluster.follow_log("n", "a", "c")),
}


@contextmanager
def answering(raw: bytes) -> Iterator[str]:
    """A server that reads a request, says this to it and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(raw)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def write_kubeconfig(folder: Path, server: str, **user: Any) -> Path:
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "mine"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def status(code: int, reason: str = "", message: str = "said so") -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message}).encode()


def ask(folder: Path, raw: bytes, verb: str = "get") -> Any:
    with answering(raw) as server:
        return ASK[verb](connect(kubeconfig=str(write_kubeconfig(folder, server))))


@pytest.mark.parametrize(
    ("code", "reason", "verb", "expected"),
    [
        (400, "BadRequest", "create", Refused),
        (401, "Unauthorized", "get", BadConfiguration),
        (403, "Forbidden", "list", Forbidden),
        (404, "NotFound", "get", NotFound),
        (409, "AlreadyExists", "create", AlreadyExists),
        (409, "Conflict", "merge", Conflict),
        (410, "Expired", "list", Expired),
        (422, "Invalid", "create", Refused),
        (429, "TooManyRequests", "get", Busy),
        (500, "InternalError", "get", Busy),
        (503, "ServiceUnavailable", "watch", Busy),
        (504, "Timeout", "read_log", Busy),
        (302, "", "get", Refused),
    ],
)
def test_each_refusal_has_its_type(
    tmp_path: Path, code: int, reason: str, verb: str, expected: type[TandemError]
) -> None:
    with pytest.raises(expected) as caught:
        ask(tmp_path, http(code, status(code, reason)), verb)
    assert len(str(caught.value).splitlines()) == 1
    assert "said so" in str(caught.value) or expected in (AlreadyExists, Expired)


def test_a_full_quota_is_waited_for(tmp_path: Path) -> None:
    body = status(403, "Forbidden", 'jobs "x" is forbidden: exceeded quota: gpus, requested: 8, used: 8, limited: 8')
    with pytest.raises(RetryableError, match="exceeded quota"):
        ask(tmp_path, http(403, body), "create")


def test_how_long_a_busy_server_wants_to_be_left_alone_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Busy) as caught:
        ask(tmp_path, http(429, status(429), "Retry-After: 7"))
    assert caught.value.after == 7


def test_a_watch_that_is_told_of_an_expired_version_says_so(tmp_path: Path) -> None:
    event = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode()
    with pytest.raises(Expired):
        ask(tmp_path, http(200, event + b"\n"), "watch")


def test_a_watch_that_is_cut_off_in_a_line_gives_what_was_whole(tmp_path: Path) -> None:
    event = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "2"}}}).encode()
    (change,) = ask(tmp_path, http(200, event + b"\n" + event[:20]), "watch")
    assert change.object["metadata"]["name"] == "a"


@given(st.sampled_from(sorted(ASK)), st.integers(200, 599), st.binary(max_size=200))
@example("get", 200, b"[]")
@example("list", 200, b'{"items": null}')
@example("watch", 200, b'{"type": "ADDED"}\n')
@example("watch", 200, b'{"type": "ERROR", "object": "x"}\n')
@example("get", 500, b'{"message": {"a": 1}}')
@settings(max_examples=60)
def test_no_answer_makes_anything_but_an_answer_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, verb: str, code: int, body: bytes
) -> None:
    with suppress(TandemError):
        ask(tmp_path_factory.mktemp("k"), http(code, body), verb)


@pytest.mark.parametrize("verb", sorted(set(ASK) - {"follow_log"}))
@pytest.mark.parametrize(
    "raw", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"\x16\x03"]
)
def test_a_broken_connection_is_an_absence(tmp_path: Path, verb: str, raw: bytes) -> None:
    with pytest.raises(Busy):
        ask(tmp_path, raw, verb)


def test_a_log_that_breaks_off_while_it_is_followed_ends_there(tmp_path: Path) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst line\n"
    assert b"".join(ask(tmp_path, raw, "follow_log")) == b"first line\n"


def test_a_server_that_is_not_there_is_an_absence_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    cluster = connect(kubeconfig=str(write_kubeconfig(tmp_path, f"http://127.0.0.1:{port}")))
    with pytest.raises(Busy, match="cannot be reached") as caught:
        cluster.get(CONFIG_MAP, "n", "a")
    assert len(str(caught.value).splitlines()) == 1


def test_the_namespace_is_the_context_s_unless_another_is_given(tmp_path: Path) -> None:
    path = str(write_kubeconfig(tmp_path, "http://127.0.0.1:1"))
    assert connect(kubeconfig=path).namespace == "mine"
    assert connect(kubeconfig=path, namespace="other").namespace == "other"


def test_in_a_pod_a_kubeconfig_comes_first_as_with_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "t"), ("namespace", "pods-own"), ("ca.crt", "a certificate")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cluster, "_POD_FOLDER", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", f"{tmp_path}/nowhere:{tmp_path}/kubeconfig")
    monkeypatch.setattr(client, "ApiClient", lambda settings: SimpleNamespace(configuration=settings))
    without = connect()
    assert (without.server, without.namespace) == ("https://10.0.0.1:443", "pods-own")
    write_kubeconfig(tmp_path, "http://127.0.0.1:1")
    with_one = connect()
    assert (with_one.server, with_one.namespace) == ("http://127.0.0.1:1", "mine")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "[]",
        "{}",
        "apiVersion: v1\nkind: Config\nclusters: 3\n",
        "current-context: x\ncontexts: []\n",
        "\x00",
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(BadConfiguration) as caught:
        connect(kubeconfig=str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert "--kubeconfig" in str(caught.value)


def test_a_context_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="nowhere"):
        connect(kubeconfig=str(write_kubeconfig(tmp_path, "http://127.0.0.1:1")), context="nowhere")


def test_a_login_helper_that_fails_is_one_line(tmp_path: Path) -> None:
    helper = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/login", "interactiveMode": "Never"}
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:1", exec=helper)
    with pytest.raises(TandemError) as caught:
        connect(kubeconfig=str(path)).get(CONFIG_MAP, "n", "a")
    assert len(str(caught.value).splitlines()) == 1
