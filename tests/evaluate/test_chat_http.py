"""One exchange with servers that misbehave, over real sockets."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.evaluate.chat_http import LARGEST_ANSWER, Exchange, HttpAnswer, NoAnswer, read_retry_after
from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_judge import FakeJudgeServer

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Which?"}]}


@contextmanager
def exchange_with(url: str, *, connections: int = 8) -> Iterator[Exchange]:
    exchange = Exchange(base_url=url, key="k", connections=connections)
    try:
        yield exchange
    finally:
        exchange.close()


def ask(reply: FakeReply, *, seconds: float = 30.0) -> HttpAnswer:
    with FakeJudgeServer(lambda request: reply) as server, exchange_with(server.base_url) as one:
        return one.post(REQUEST, seconds=seconds)


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Says these bytes to one caller, whatever it asks, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(30)


def test_an_answer_comes_back_whole_with_its_status_and_the_wait_asked_for() -> None:
    answer = ask(FakeReply(status=503, headers={"Retry-After": "7"}, body=b"\x00\xff"))
    assert answer == HttpAnswer(status=503, retry_after="7", body=b"\x00\xff")


def test_connections_are_kept_for_the_next_call() -> None:
    connected: list[tuple[str, int]] = []
    with FakeJudgeServer(lambda request: FakeReply(status=404)) as server:
        accept = server._server.get_request

        def note() -> tuple[socket.socket, tuple[str, int]]:
            connection, address = accept()
            connected.append(address)
            return connection, address

        server._server.get_request = note  # type: ignore[method-assign]
        with exchange_with(server.base_url) as exchange:
            assert [exchange.post(REQUEST, seconds=30).status for _ in range(5)] == [404] * 5
    assert len(connected) == 1


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply(hang=True),
        FakeReply(drip_seconds=0.05),
        FakeReply(body=b"{}" * 100, headers={"X-Filler": "x" * 100}, drip_seconds=0.05),
        FakeReply(after_seconds=30.0),
    ],
)
def test_time_is_up_however_the_server_spends_it(reply: FakeReply) -> None:
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=r"no whole reply in 0\.3 s"):
        ask(reply, seconds=0.3)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("reply", [FakeReply(reset=True), FakeReply(cut=0), FakeReply(cut=1), FakeReply(cut=100)])
def test_an_answer_that_breaks_off_is_none(reply: FakeReply) -> None:
    with pytest.raises(NoAnswer) as caught:
        ask(reply)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"\xff\xfe\x00 nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 100_000,
    ],
)
def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    with raw_server(answer) as url, exchange_with(url) as exchange, pytest.raises(NoAnswer) as caught:
        exchange.post(REQUEST, seconds=20)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_the_largest_answer_is_read_and_a_larger_one_is_not() -> None:
    assert len(ask(FakeReply(body=b"x" * LARGEST_ANSWER)).body) == LARGEST_ANSWER
    for status in (200, 500):
        with pytest.raises(NoAnswer, match="more than 1048576 bytes"):
            ask(FakeReply(status=status, body=b"x" * (LARGEST_ANSWER + 1)))


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("encoding", [{"Content-Encoding": "gzip"}, {"content_type": "text/plain; charset=zlib"}])
def test_a_compressed_answer_is_not_unpacked(status: int, encoding: dict[str, str]) -> None:
    packed = gzip.compress(b"x" * 10_000_000)
    content_type = encoding.get("content_type", "application/json")
    headers = {name: value for name, value in encoding.items() if name != "content_type"}
    assert ask(FakeReply(status=status, body=packed, headers=headers, content_type=content_type)).body == packed


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/", "http://[", ""])
def test_redirections_are_not_followed(location: str) -> None:
    assert ask(FakeReply(status=307, headers={"Location": location})).status == 307


def test_a_failed_call_is_not_tried_again() -> None:
    with FakeJudgeServer(lambda request: FakeReply(status=500)) as server, exchange_with(server.base_url) as exchange:
        assert exchange.post(REQUEST, seconds=30).status == 500
        assert server.requests == [REQUEST]


def test_the_environment_decides_neither_who_is_asked_nor_with_which_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other")
    with FakeJudgeServer() as server, exchange_with(server.base_url) as exchange:
        assert exchange.post(REQUEST, seconds=30).status == 200
        assert server.keys == ["k"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999999/v1", "http://[::1/v1", "http://\x00/v1"])
def test_an_address_that_is_none_is_no_answer(address: str) -> None:
    with exchange_with(address) as exchange, pytest.raises(NoAnswer):
        exchange.post(REQUEST, seconds=30)


def test_an_address_at_which_nobody_listens_is_no_answer() -> None:
    with exchange_with("http://127.0.0.1:9/v1") as exchange, pytest.raises(NoAnswer, match=r"127\.0\.0\.1:9"):
        exchange.post(REQUEST, seconds=30)


def test_closing_ends_the_calls_under_way_and_all_later_ones() -> None:
    said: list[str] = []
    with FakeJudgeServer(lambda request: FakeReply(hang=True)) as server:
        exchange = Exchange(base_url=server.base_url, key="k", connections=2)

        def call() -> None:
            try:
                exchange.post(REQUEST, seconds=300)
            except NoAnswer as error:
                said.append(str(error))

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(server.requests) < 2:
            time.sleep(0.001)
        exchange.close()
        for thread in threads:
            thread.join(30)
        assert len(said) == 2
        with pytest.raises(NoAnswer, match="stopped"):
            exchange.post(REQUEST, seconds=300)
        exchange.close()


def test_closing_before_the_first_call_is_no_trouble() -> None:
    Exchange(base_url="http://127.0.0.1:9", key="k", connections=1).close()


@pytest.mark.parametrize("excepted", [False, True])
def test_a_proxy_of_the_environment_is_used_unless_it_excepts_the_host(
    monkeypatch: pytest.MonkeyPatch, excepted: bool
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FakeJudgeServer(lambda request: FakeReply(status=503)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "127.0.0.1" if excepted else "elsewhere")
        with exchange_with("http://127.0.0.1:9/v1") as exchange:
            if excepted:
                with pytest.raises(NoAnswer):
                    exchange.post(REQUEST, seconds=30)
            else:
                assert exchange.post(REQUEST, seconds=30).status == 503
    assert len(proxy.requests) == (0 if excepted else 1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17.0),
        (" 0 ", 0.0),
        ("Mon, 23 Nov 2026 12:00:40 GMT", 40.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 12:00:40", 40.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("1.5", None),
    ],
)
def test_a_wait_is_asked_for_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, NOW) == seconds


@given(
    st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,9} Nov \d{1,9} \d+:\d+:\d+ [+-]\d{1,9}", fullmatch=True)
)
def test_reading_a_wait_never_fails(value: str) -> None:
    seconds = read_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
