"""Keep similarities in the store, so that a scoring that was broken off goes on, and a second one compares nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import ValidationError

from tandem.evaluate.bertscore import PAIRS_AT_ONCE, AnswerScorer, BertScoreIdentity
from tandem.evaluate.kept import Damaged, ObjectStore, find_kept, keep_first
from tandem.evaluate.records import Record, Similarity
from tandem.spec import canonical_json, sha256_hex


class _Entry(Record):
    format: Literal["tandem.dev/bertscore-cache/v1"] = "tandem.dev/bertscore-cache/v1"
    compared: str
    """SHA-256 of the pairs and of what they were compared with."""
    similarities: tuple[Similarity, ...]


@dataclass(frozen=True, kw_only=True)
class KeptScores:
    """An AnswerScorer whose similarities are kept under cache/bertscore/<sha256>.json, one object for some pairs.

    The pairs are always grouped in the same way, for the last digit of a similarity may depend on its company.
    """

    scorer: AnswerScorer
    store: ObjectStore
    batch_size: int
    """As the scorer was loaded with: part of what similarities depend on."""
    pairs_at_once: int = PAIRS_AT_ONCE
    say: Callable[[str], None] = lambda _: None
    """Told how many pairs are compared, those of before first."""

    @property
    def identity(self) -> BertScoreIdentity:
        """The scorer's."""
        return self.scorer.identity

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
        """See AnswerScorer; only pairs that are not kept are compared."""
        pairs = list(zip(answers, references, strict=True))
        groups = [pairs[start : start + self.pairs_at_once] for start in range(0, len(pairs), self.pairs_at_once)]
        found = {number: kept for number, group in enumerate(groups) if (kept := self._find(group)) is not None}
        done = sum(map(len, found.values()))
        if found:
            self.say(f"compared {done}/{len(pairs)}")
        for number, group in enumerate(groups):
            if number not in found:
                found[number] = self._compare(group)
                done += len(group)
                self.say(f"compared {done}/{len(pairs)}")
        return [similarity for number in range(len(groups)) for similarity in found[number]]

    def _find(self, group: list[tuple[str, str]]) -> tuple[Similarity, ...] | None:
        digest = self._digest(group)
        return find_kept(self.store, _name(digest), partial(_read, digest, len(group)))

    def _compare(self, group: list[tuple[str, str]]) -> tuple[Similarity, ...]:
        answers, references = zip(*group, strict=True)
        made = tuple(self.scorer.score(answers, references))
        digest = self._digest(group)
        body = _Entry(compared=digest, similarities=made).model_dump_json().encode()
        return keep_first(self.store, _name(digest), body, partial(_read, digest, len(group))) or made

    def _digest(self, group: list[tuple[str, str]]) -> str:
        made_with = {"identity": self.identity.model_dump(mode="json"), "batch_size": self.batch_size}
        return sha256_hex(canonical_json({**made_with, "pairs": [list(pair) for pair in group]}))


def _name(digest: str) -> str:
    return f"cache/bertscore/{digest}"


def _read(digest: str, count: int, body: bytes) -> tuple[Similarity, ...]:
    try:
        entry = _Entry.model_validate_json(body)
    except ValidationError:
        raise Damaged from None
    if entry.compared != digest or len(entry.similarities) != count:
        raise Damaged
    return entry.similarities
