"""Any answer of a judge's server is a reply, a failure with its reason in one line, or that no call can succeed.

tests/evaluate/test_judge_fuzz.py sends such answers through a server and the client.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import BadConfiguration
from tandem.evaluate.chat_answers import ChatServer, Failure
from tandem.evaluate.chat_http import HttpAnswer
from tandem.evaluate.judge_answers import read_answer
from tests.fuzz.damage import damaged_json, fuzzing, read_or_faults

pytestmark = pytest.mark.timeout(120)

SERVER = ChatServer(section="judge", base_url="http://judge", model="m", key_env="KEY", again="score again")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
COMPLETION: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "system_fingerprint": "fp",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": '{"verdict": "right"}'}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
ERROR: dict[str, Any] = {"error": {"message": "slow\ndown, key-123", "type": "x", "param": None, "code": "rate"}}

WAITS = st.sampled_from(
    ["", "1", "-1", "1e999", "nan", "9" * 5_000, "Wed, 21 Oct 2026 07:28:00 GMT", "\xff", "Wed, 99 Xxx -1 99:99"]
) | st.text(max_size=20)


@fuzzing(1000)
@given(
    damaged_json(COMPLETION) | damaged_json(ERROR),
    st.sampled_from([200, 200, 200, 400, 401, 402, 404, 408, 418, 429, 500, 503, 599]),
    WAITS,
)
def test_any_answer_is_a_reply_a_failure_or_a_fault(body: bytes, status: int, retry_after: str) -> None:
    answer = HttpAnswer(status=status, body=body, retry_after=retry_after)
    found = read_or_faults(lambda: read_answer(answer, SERVER, key="key-123", now=NOW))
    if isinstance(found, Failure):
        assert len(found.reason.splitlines()) == 1
        assert "key-123" not in found.reason
        assert found.wait is None or found.wait >= 0
        found.reason.encode()
    elif found is not None:
        assert found.verdict("tandem") in ("right", "wrong", None)
        assert found.verdict("original") in ("right", "wrong", None)


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("body", [b"%s", b'{"error": {"message": "%s"}}'])
@pytest.mark.parametrize("before", range(190, 201))
def test_a_key_is_not_shown_in_part_where_a_long_message_is_cut(status: int, body: bytes, before: int) -> None:
    answer = HttpAnswer(status=status, body=body % (b"x" * before + b"key-123"), retry_after="")
    try:
        found = str(read_answer(answer, SERVER, key="key-123", now=NOW))
    except BadConfiguration as error:
        found = str(error)
    assert "xxx" in found
    assert "k" not in found.partition("xxx")[2].partition("'")[0].partition(".")[0]
