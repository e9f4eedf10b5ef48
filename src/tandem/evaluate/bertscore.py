"""BERTScore by the bert-score package, its model loaded once and its three faults kept away.

bert-score 0.3.13 on transformers 5 overflows where a tokenizer states no length, crashes on an empty text,
and loses the blank in front of a text that RoBERTa and GPT-2 were trained with, which changes scores. Its
arithmetic is used as it is; only the tokenizer is given to it wrapped.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from tandem.evaluate.encoder import BertScoreSettings, load_encoder
from tandem.evaluate.records import Record, Similarity

PAIRS_AT_ONCE = 128
"""bert-score holds the embeddings of all texts of a call in memory; and so many pairs at most are compared again after
a scoring was broken off."""


class BertScoreIdentity(Record):
    """What the scores were made with; scores of different identities are not to be compared."""

    model: str
    """The encoder's name."""
    layer: int
    """Whose outputs were compared."""
    revision: str
    """The hub's commit, or sha256:<digest of the weights> of a local model."""
    hash: str
    """bert-score's own name of its configuration, versions included (0.3.13 calls itself 0.3.12 there)."""
    bert_score_version: str
    """Of the installed package."""
    baseline: float | None
    """What rescaled scores count as 0; null where bert-score ships none for this model and layer."""


class AnswerScorer(Protocol):
    """Whoever can say how similar answers are to their references."""

    @property
    def identity(self) -> BertScoreIdentity:
        """What the scores are made with."""
        ...

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
        """One similarity for each pair; an answer without a single token scores 0."""
        ...


class BertScore:
    """A loaded encoder. F1 as bert-score defines it, without idf weights, rounded to 6 decimals."""

    def __init__(self, settings: BertScoreSettings) -> None:
        """Load the encoder; see load_encoder for what is raised."""
        encoder = load_encoder(settings)
        self._encoder = encoder
        self._settings = settings
        self._identity = BertScoreIdentity(
            model=encoder.name,
            layer=encoder.layer,
            revision=encoder.revision,
            hash=_hash(encoder.name, encoder.layer),
            bert_score_version=version("bert-score"),
            baseline=_baseline(encoder.name, encoder.layer),
        )

    @property
    def identity(self) -> BertScoreIdentity:
        """What the scores are made with."""
        return self._identity

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
        """One similarity for each answer and reference, in order."""
        pairs = list(zip(answers, references, strict=True))
        return [
            self._similarity(f1)
            for start in range(0, len(pairs), PAIRS_AT_ONCE)
            for f1 in self._f1(pairs[start : start + PAIRS_AT_ONCE])
        ]

    def _f1(self, pairs: list[tuple[str, str]]) -> list[float]:
        from bert_score.utils import bert_cos_score_idf

        weights: dict[int, float] = defaultdict(lambda: 1.0)
        weights[self._encoder.tokenizer.cls_token_id] = 0.0
        weights[self._encoder.tokenizer.sep_token_id] = 0.0
        scores = bert_cos_score_idf(
            self._encoder.model,
            [reference for _, reference in pairs],
            [answer for answer, _ in pairs],
            self._encoder.tokenizer,
            weights,
            batch_size=self._settings.batch_size,
            device=self._settings.device,
        )
        return [round(float(f1), 6) for f1 in scores[:, 2]]

    def _similarity(self, f1: float) -> Similarity:
        baseline = self._identity.baseline
        if baseline is None:
            return Similarity(f1=f1)
        # Without a token to compare there is no similarity to rescale: no better than unrelated texts.
        return Similarity(f1=f1, rescaled=round((f1 - baseline) / (1 - baseline), 6) if f1 else 0.0)


def _hash(name: str, layer: int) -> str:
    from bert_score.utils import get_hash

    text: str = get_hash(name, layer, False, False, False, False)
    return text


def _baseline(name: str, layer: int) -> float | None:
    import bert_score

    folder = Path(bert_score.__file__).parent / "rescale_baseline" / "en"
    path = folder / f"{name.removeprefix('FacebookAI/')}.tsv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = {int(row["LAYER"]): float(row["F"]) for row in csv.DictReader(file)}
    return rows.get(layer)
