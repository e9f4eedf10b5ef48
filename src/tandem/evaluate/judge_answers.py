"""What a judge server's answer means: a reply, a failure of this call, or that no call can succeed."""

from __future__ import annotations

from datetime import datetime

from tandem.evaluate.chat_answers import ChatServer, Failure, read_completion
from tandem.evaluate.chat_http import HttpAnswer
from tandem.evaluate.judge import UNPARSEABLE
from tandem.evaluate.judge_cache import Reply

_LONGEST_CONTENT = 65_536
"""Characters of a message; the original's judge may write some thousand, and each stands in a score line."""


def read_answer(answer: HttpAnswer, server: ChatServer, *, key: str, now: datetime) -> Reply | Failure:
    """Tell a reply from a failure; raises as chat_answers.read_completion."""
    completion = read_completion(answer, server, key=key, now=now)
    if isinstance(completion, Failure):
        return completion
    choice = completion.choices[0]
    content = (choice.message.content or "").strip()
    if len(content) > _LONGEST_CONTENT:
        what = f"a reply of {len(content)} characters; {_LONGEST_CONTENT} are the most"
        return Failure(reason=f"{UNPARSEABLE}: {what}", temporary=False)
    return Reply(
        content=content,
        finish_reason=choice.finish_reason,
        served_model=completion.model,
        fingerprint=completion.system_fingerprint,
    )
