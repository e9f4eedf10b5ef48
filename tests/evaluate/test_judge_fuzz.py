"""Whatever a server answers and whatever lies in the cache: a verdict, or none and its reason, but never an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_judge import FakeJudgeServer
from tandem.evaluate.judge import JudgeSettings
from tandem.evaluate.judge_cache import JudgeCache, Reply
from tandem.evaluate.judge_openai import OpenAIJudge
from tandem.evaluate.judge_prompt import build_request

COMPLETION = json.dumps(
    {
        "model": "m",
        "system_fingerprint": "fp",
        "choices": [{"message": {"role": "assistant", "content": '{"verdict": "right"}'}, "finish_reason": "stop"}],
    }
).encode()

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "model", "verdict", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with a piece cut out and something else put in its place."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, len(whole)))
    return whole[:start] + draw(st.binary(max_size=6) | st.sampled_from([b"null", b"[", b'"', b"1e999"])) + whole[end:]


BODIES = st.binary(max_size=200) | damaged(COMPLETION) | VALUES.map(lambda value: json.dumps(value).encode())


class Answering:
    """A judge whose server gives one answer to all."""

    def __init__(self) -> None:
        self.reply = FakeReply()
        self.server = FakeJudgeServer(lambda request: self.reply)
        settings = JudgeSettings(kind="openai", base_url=self.server.base_url, model="m", max_retries=0)
        self.judge = OpenAIJudge(settings=settings, key="k")


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    one = Answering()
    with one.server:
        yield one
        one.judge.close()


def check(answering: Answering, body: bytes, status: int = 200) -> None:
    answering.reply = FakeReply(body=body, status=status)
    verdict = answering.judge.judge("q", "r", "p")
    assert (verdict.verdict == "unscored") == (verdict.reason is not None)
    assert "\n" not in (verdict.reason or "")


@settings(deadline=None, max_examples=300)
@given(BODIES)
def test_any_answer_is_a_verdict_or_a_reason(answering: Answering, body: bytes) -> None:
    check(answering, body)


@settings(deadline=None, max_examples=100)
@given(
    BODIES | damaged(b'{"error": {"message": "too long", "code": null}}'), st.sampled_from([400, 418, 422, 451, 599])
)
def test_any_answer_to_a_refused_call_is_a_reason(answering: Answering, body: bytes, status: int) -> None:
    check(answering, body, status)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"choices":' * 50_000,
        b'{"choices": [' + b'{"message": {"content": "yes"}},' * 20_000,
        b'{"choices": [{"message": {"content": "' + b"\\u0000" * 100_000 + b'"}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"choices": [{"message": {"content": "' + b'{\\"verdict\\":' * 5_000 + b'"}}]}',
        b'{"choices": [{"message": {"content": "' + b"9" * 60_000 + b'"}}]}',
        b"9" * 1_000_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_an_answer_made_to_do_harm_is_none(answering: Answering, body: bytes) -> None:
    check(answering, body)


REQUEST = build_request(JudgeSettings(kind="openai", base_url="http://judge", model="m"), "q", "r", "p")
ENTRY = json.dumps(
    {
        "format": "tandem.dev/judge-cache/v1",
        "request": REQUEST.model_dump(mode="json"),
        "reply": {"content": "yes", "finish_reason": None, "served_model": None, "fingerprint": None},
    }
).encode()


class Holding:
    """A store in which every key holds the same bytes."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def get(self, key: str) -> bytes:
        return self.body

    def put_if_absent(self, key: str, body: bytes) -> None:
        raise AssertionError("reading writes nothing")


def test_the_whole_entry_is_found() -> None:
    assert JudgeCache(Holding(ENTRY)).find(REQUEST) == Reply(content="yes")


@settings(deadline=None, max_examples=300)
@given(BODIES | damaged(ENTRY))
def test_any_bytes_in_the_cache_are_a_reply_with_a_verdict_or_none(body: bytes) -> None:
    found = JudgeCache(Holding(body)).find(REQUEST)
    assert found is None or found.verdict("tandem") is not None
