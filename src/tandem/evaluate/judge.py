"""Decide whether answers are right: what a judge is, the one that ships, and asking for many at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, Protocol

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.evaluate.extract import is_exact
from tandem.evaluate.records import Record, Verdict

UNAVAILABLE = "unavailable"
"""Reason: no reply after all tries."""
REFUSED = "refused"
"""Reason: the server does not accept this request."""
UNPARSEABLE = "unparseable"
"""Reason: there is a reply, but it is no verdict."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, and how it is asked; the Run file's judge section says what each field means."""

    kind: Literal["exact", "openai"] = "exact"
    base_url: str | None = None
    model: str | None = None
    key_env: str = "TANDEM_JUDGE_API_KEY"
    protocol: Literal["tandem", "original"] = "tandem"
    temperature: float = 0.0
    """Not used by protocol original, which fixes its own 0.9 and sends neither seed nor token limit."""
    seed: int | None = 0
    max_tokens: int = 64
    concurrency: int = 16
    timeout_seconds: float = 60.0
    max_retries: int = 5


class JudgeIdentity(Record):
    """Which judge gave the verdicts."""

    line: str
    """One line for every report, so that no reader can mistake the judge."""
    kind: Literal["exact", "openai"]
    protocol: Literal["tandem", "original"] | None = None
    url: str | None = None
    model: str | None = None
    temperature: float | None = None
    seed: int | None = None


class Judge(Protocol):
    """Whoever can say whether an answer is right. Called from several threads at once."""

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        """Judge one prediction against the reference.

        What cannot be judged is `unscored` with a reason, never wrong. Raises BadConfiguration for what no
        sample could get past, such as a refused key.
        """
        ...


class ExactMatchJudge:
    """Right if both answers are the same after normalisation (see extract.normalise); needs no network."""

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:  # noqa: ARG002
        """Compare the texts; the question plays no part."""
        return Verdict(verdict="right" if is_exact(prediction, reference) else "wrong")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One answer to be judged."""

    question: str
    reference: str
    prediction: str


def judge_all(judge: Judge, items: Iterable[Item], *, concurrency: int) -> Mapping[Item, Verdict]:
    """Judge each different item once, `concurrency` at a time.

    Raises Unavailable if the judge answers nobody (already after two rounds of calls without one reply),
    BadConfiguration if it refuses everybody: then nothing is known about the answers, and the whole scoring
    is to be repeated. A failure of single items leaves those unscored.
    """
    different = list(dict.fromkeys(items))
    verdicts: dict[Item, Verdict] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(concurrency, len(different)))) as pool:
        waiting: dict[Future[Verdict], Item] = {
            pool.submit(judge.judge, item.question, item.reference, item.prediction): item for item in different
        }
        pending = set(waiting)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                verdicts.update({waiting[future]: future.result() for future in done})
                if len(verdicts) >= 2 * concurrency:
                    _stop_if_nobody_is_answered(verdicts)
        finally:
            for future in pending:
                future.cancel()
    _stop_if_nobody_is_answered(verdicts)
    return {item: verdicts[item] for item in different}


def _stop_if_nobody_is_answered(verdicts: Mapping[Item, Verdict]) -> None:
    reasons = [verdict.reason or "" for verdict in verdicts.values()]
    if not reasons:
        return
    if all(reason.startswith(UNAVAILABLE) for reason in reasons):
        raise Unavailable(
            Fault(
                where="judge",
                what=f"no call was answered ({reasons[0]})",
                remedy="Score again once it is back: replies already given are kept",
            )
        )
    if all(reason.startswith(REFUSED) for reason in reasons):
        raise BadConfiguration(
            Fault(
                where="judge",
                what=f"every call was refused ({reasons[0]})",
                remedy="Change the judge's settings: the server does not accept this model or these options",
            )
        )
