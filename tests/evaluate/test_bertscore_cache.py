"""Similarities are computed once: a second scoring, and one that goes on after a kill, compare only what is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem.evaluate.bertscore import AnswerScorer, BertScore, BertScoreIdentity
from tandem.evaluate.bertscore_cache import KeptScores
from tandem.evaluate.encoder import BertScoreSettings
from tandem.evaluate.fake_judge import FakeJudgeServer
from tandem.evaluate.records import Similarity
from tandem.evaluate.result import write_result
from tandem.store import Directory, NotThere
from tests.evaluate.test_judge_survives import predict, score
from tests.evaluate.tiny_roberta import write_tiny_roberta

IDENTITY = BertScoreIdentity(
    model="lengths", layer=1, revision="none", hash="lengths", bert_score_version="none", baseline=None
)
PAIRS = [(f"answer {number}" * (number % 3), f"reference {number}") for number in range(7)]
ANSWERS, REFERENCES = zip(*PAIRS, strict=True)


@dataclass
class Counting:
    """A scorer that tells how many pairs each of its calls had; by itself it compares lengths."""

    scorer: AnswerScorer | None = None
    identity: BertScoreIdentity = IDENTITY
    calls: list[int] = field(default_factory=list)

    def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
        self.calls.append(len(answers))
        if self.scorer is not None:
            return self.scorer.score(answers, references)
        return [Similarity(f1=len(a) / (len(a) + len(r))) for a, r in zip(answers, references, strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "store")


def keep(scorer: AnswerScorer, store: Directory, *, batch_size: int = 64, said: list[str] | None = None) -> KeptScores:
    told = [] if said is None else said
    return KeptScores(scorer=scorer, store=store, batch_size=batch_size, pairs_at_once=3, say=told.append)


def test_what_was_compared_once_is_the_same_again_and_compared_no_more(store: Directory) -> None:
    first, second = Counting(), Counting()
    said: list[str] = []
    made = keep(first, store, said=said).score(ANSWERS, REFERENCES)
    assert made == Counting().score(ANSWERS, REFERENCES)
    assert (first.calls, said) == ([3, 3, 1], ["compared 3/7", "compared 6/7", "compared 7/7"])
    said.clear()
    assert keep(second, store, said=said).score(ANSWERS, REFERENCES) == made
    assert (second.calls, said) == ([], ["compared 7/7"])


def test_only_the_groups_that_changed_are_compared_again(store: Directory) -> None:
    keep(Counting(), store).score(ANSWERS, REFERENCES)
    scorer = Counting()
    changed = [*ANSWERS[:4], "another", *ANSWERS[5:]]
    assert keep(scorer, store).score(changed, REFERENCES) == Counting().score(changed, REFERENCES)
    assert scorer.calls == [3]


@pytest.mark.parametrize(
    ("identity", "batch_size"),
    [
        (IDENTITY.model_copy(update={"layer": 2}), 64),
        (IDENTITY.model_copy(update={"revision": "x"}), 64),
        (IDENTITY, 8),
    ],
    ids=["layer", "weights", "batch"],
)
def test_what_was_compared_otherwise_is_compared_anew(
    store: Directory, identity: BertScoreIdentity, batch_size: int
) -> None:
    keep(Counting(), store).score(ANSWERS, REFERENCES)
    scorer = Counting(identity=identity)
    keep(scorer, store, batch_size=batch_size).score(ANSWERS, REFERENCES)
    assert scorer.calls == [3, 3, 1]


def test_nothing_to_compare_is_nothing(store: Directory) -> None:
    assert keep(Counting(), store).score([], []) == []


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[[[", b"of others", b"too few"])
def test_a_damaged_object_is_replaced_by_one_beside_it(store: Directory, tmp_path: Path, body: bytes) -> None:
    keep(Counting(), store).score(ANSWERS[:3], REFERENCES[:3])
    (entry,) = store.list("cache/bertscore/")
    path = tmp_path / "store" / entry.key
    whole = path.read_text()
    digest = entry.key.removeprefix("cache/bertscore/").removesuffix(".json")
    special = {
        b"of others": whole.replace(digest, "0" * 64).encode(),
        b"too few": f"{whole[: whole.index('[')]}[]}}".encode(),
    }
    path.write_bytes(special.get(body, body))
    again, third = Counting(), Counting()
    wanted = Counting().score(ANSWERS[:3], REFERENCES[:3])
    assert keep(again, store).score(ANSWERS[:3], REFERENCES[:3]) == wanted
    assert keep(third, store).score(ANSWERS[:3], REFERENCES[:3]) == wanted
    assert (again.calls, third.calls) == ([3], [])


def test_of_two_writers_the_first_ones_similarities_count(store: Directory, tmp_path: Path) -> None:
    class Late(Directory):
        """Somebody else writes as soon as nothing was found."""

        def get(self, key: str) -> bytes:
            try:
                return super().get(key)
            except NotThere:
                keep(Counting(), store).score(ANSWERS[:3], REFERENCES[:3])
                raise

    class Swapped(Counting):
        def score(self, answers: Sequence[str], references: Sequence[str]) -> list[Similarity]:
            return super().score(references, answers)

    second = Swapped()
    assert keep(second, Late(tmp_path / "store")).score(ANSWERS[:3], REFERENCES[:3]) == Counting().score(
        ANSWERS[:3], REFERENCES[:3]
    )
    assert second.calls == [3]


CHILD = """
import signal, sys
from pathlib import Path
from tests.evaluate.test_bertscore_cache import score_with

def say(line):
    print(line, flush=True)
    if line.startswith("compared 80/"):
        signal.pause()

score_with(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), say)
"""


def score_with(url: str, encoder: Path, store: Path, say: Callable[[str], None]) -> tuple[bytes, list[int]]:
    """Score 200 texts by a judge and a small encoder, 40 pairs at once: the result, and the encoder's calls."""
    loaded = BertScore(BertScoreSettings(model=str(encoder), layer=2, batch_size=7))
    counting = Counting(scorer=loaded, identity=loaded.identity)
    kept = KeptScores(scorer=counting, store=Directory(store), batch_size=7, pairs_at_once=40, say=say)
    _, result = score(predict(200), url, store, scorer=kept)
    return write_result(result), counting.calls


def test_after_a_kill_neither_a_verdict_nor_a_similarity_of_before_is_made_again(tmp_path: Path) -> None:
    """Two groups of 40 pairs are kept when the process is killed in the middle of its comparing."""
    encoder, killed = write_tiny_roberta(tmp_path / "encoder"), tmp_path / "killed"
    with FakeJudgeServer() as server:
        command = [sys.executable, "-c", CHILD, server.base_url, str(encoder), str(killed)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("compared 80/"):
                    child.kill()
            assert child.wait() == -signal.SIGKILL
        asked = len(server.requests)
        said: list[str] = []
        result, calls = score_with(server.base_url, encoder, killed, said.append)
        assert len(server.requests) == asked
        undisturbed, all_calls = score_with(server.base_url, encoder, tmp_path / "undisturbed", said.append)
    assert said[0] == f"compared 80/{sum(all_calls)}"
    assert sum(calls) == sum(all_calls) - 80
    assert result == undisturbed
