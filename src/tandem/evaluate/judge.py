"""Decide whether answers are right: what a judge is, the one that ships, and asking for many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, Protocol

from tandem.errors import BadConfiguration, Fault, Unavailable
from tandem.evaluate.chat_answers import REFUSED, UNAVAILABLE
from tandem.evaluate.extract import is_exact
from tandem.evaluate.records import Record, Verdict

UNPARSEABLE = "unparseable"
"""Reason: there is a reply, but it is no verdict."""

REPORTS = 20
"""So often at most a scoring says how far it is."""


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
    deadline_seconds: float = 600.0
    max_calls: int | None = None
    max_failures: float | None = None


class JudgeIdentity(Record):
    """Which judge gave the verdicts."""

    line: str
    """One line for every report, so that no reader can mistake the judge."""
    kind: Literal["exact", "openai"]
    """exact compares normalised texts; openai asked a language model."""
    protocol: Literal["tandem", "original"] | None = None
    """How it was asked and read; null for exact, as all that follows."""
    url: str | None = None
    """The API's address."""
    model: str | None = None
    """The model's name there."""
    temperature: float | None = None
    """Sampling temperature."""
    seed: int | None = None
    """Seed sent to the server; null: none."""


class Judge(Protocol):
    """Whoever can say whether an answer is right. Called from several threads at once."""

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:
        """Judge one prediction against the reference.

        What cannot be judged is `unscored` with a reason, never wrong. Raises BadConfiguration for what no
        sample could get past, such as a refused key, and Unavailable where a limit ends the scoring for now.
        """
        ...

    def close(self) -> None:
        """Give up the calls and waits under way, and let go of connections, for good."""
        ...


class ExactMatchJudge:
    """Right if both answers are the same after normalisation (see extract.normalise); needs no network."""

    def judge(self, question: str, reference: str, prediction: str) -> Verdict:  # noqa: ARG002
        """Compare the texts; the question plays no part."""
        return Verdict(verdict="right" if is_exact(prediction, reference) else "wrong")

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One answer to be judged."""

    question: str
    reference: str
    prediction: str


def judge_all(
    judge: Judge,
    items: Iterable[Item],
    *,
    concurrency: int,
    max_failures: float | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Mapping[Item, Verdict]:
    """Judge each different item once, `concurrency` at a time. On any error the judge is closed.

    `report` is told now and then, and in the end, how many are judged, of how many.

    A failure of single items leaves those unscored. Raises Unavailable if the judge answers nobody (already
    after two rounds of calls without one reply), or if more items than `max_failures` (below 1: a share of all
    different items; else a count; None: any number) have no verdict; BadConfiguration if it refuses everybody.
    Then nothing is returned, and the whole scoring is to be repeated.
    """
    different = list(dict.fromkeys(items))
    tally = _Tally(total=len(different), early=2 * concurrency, max_failures=max_failures)
    end: list[BaseException] = []

    def ask(item: Item) -> Verdict:
        if end:
            raise end[0]
        try:
            verdict = judge.judge(item.question, item.reference, item.prediction)
            tally.add(verdict)
        except BaseException as error:
            end.append(error)
            raise
        return verdict

    with ThreadPoolExecutor(max_workers=max(1, min(concurrency, len(different)))) as pool:
        asked = [pool.submit(ask, item) for item in different]
        step = -(-len(asked) // REPORTS)
        try:
            for done, future in enumerate(as_completed(asked), start=1):
                future.result()
                if done % step == 0 or done == len(asked):
                    report(done, len(asked))
        except BaseException as error:
            end.append(error)
            judge.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {item: future.result() for item, future in zip(different, asked, strict=True)}


@dataclass(kw_only=True)
class _Tally:
    """How the items fared so far, as all threads tell."""

    total: int
    early: int
    """So many without any reply are enough to know that there will be none."""
    max_failures: float | None
    failures: Counter[str] = field(default_factory=Counter)
    """By the reason's first word."""
    seen: int = 0
    lock: Lock = field(default_factory=Lock)

    def add(self, verdict: Verdict) -> None:
        with self.lock:
            self.seen += 1
            if verdict.verdict == "unscored":
                reason = verdict.reason or ""
                self.failures[reason.partition(":")[0]] += 1
                self._stop_if_too_many(reason)

    def _stop_if_too_many(self, reason: str) -> None:
        known = self.seen >= min(self.early, self.total)
        if known and self.failures[REFUSED] == self.seen:
            raise BadConfiguration(
                Fault(
                    where="judge",
                    what=f"every call was refused ({reason})",
                    remedy="Change the judge's settings: the server does not accept this model or these options",
                )
            )
        if known and self.failures[UNAVAILABLE] == self.seen:
            raise Unavailable(
                Fault(
                    where="judge",
                    what=f"no call was answered ({reason})",
                    remedy="Score again once it is back: replies already given are kept",
                )
            )
        failed, most = self.failures.total(), self.max_failures
        if most is not None and failed > (most * self.total if most < 1 else most):
            counts = ", ".join(f"{count} {word}" for word, count in self.failures.most_common())
            raise Unavailable(
                Fault(
                    where="judge",
                    what=(
                        f"{failed} of {self.total} answers got no verdict, more than judge.maxFailures ({most:g}) "
                        f"allows: {counts}; {self.seen - failed} have one; the last failure was: {reason}"
                    ),
                    remedy="Score again once the judge is well, for replies already given are kept; or allow more",
                )
            )
