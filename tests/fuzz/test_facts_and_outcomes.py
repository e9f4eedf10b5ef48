"""Any environment is the facts of an attempt, or faults; any line that a process leaves is an outcome, or none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.outcome import LINE_MARK, Outcome, choose_strongest, classify, parse_outcome_line, read_outcome
from tandem.stage.facts import Facts, read_facts, to_environment
from tandem.store.layout import RunPlace
from tests.fuzz.damage import damaged_bytes, damaged_json, fuzzing, read_or_faults

pytestmark = pytest.mark.timeout(120)

FACTS = to_environment(
    Facts(
        store_url="s3://bucket/prefix",
        place=RunPlace(namespace="local", run_id="demo-0123456789"),
        run_sha256="ab" * 32,
        stage="generate/held-out/3",
        attempt=2,
    )
)
OUTCOME = Outcome(exit_code=65, code="bad-data", message="a.jsonl:1: is empty", remedy="Remove it.")

hostile = st.sampled_from(
    ["", "9" * 5_000, "-1", "1e3", "\u0663", "\udcff", "train", "score/a/b", "generate/a/" + "9" * 5_000, "../..", "/"]
) | st.text(max_size=12)


def test_the_whole_facts_and_outcome_are_read() -> None:
    assert to_environment(read_facts(FACTS)) == FACTS
    assert parse_outcome_line(LINE_MARK + OUTCOME.to_json()) == OUTCOME


@fuzzing(1000)
@given(
    st.dictionaries(
        st.sampled_from(sorted(FACTS)),
        hostile
        | st.sampled_from(sorted(FACTS.values())).flatmap(
            lambda text: damaged_bytes(text.encode()).map(lambda body: body.decode("utf-8", "surrogateescape"))
        ),
        min_size=1,
    )
)
def test_a_damaged_environment_is_facts_or_faults(changed: dict[str, str]) -> None:
    facts = read_or_faults(lambda: read_facts(FACTS | changed))
    if facts is not None:
        assert facts.attempt > 0
        assert facts.place.execution(facts.stage, "001-a").startswith("runs/")


@fuzzing(1000)
@given(damaged_json(asdict(OUTCOME)))
def test_a_damaged_outcome_is_an_outcome_of_some_class_or_none(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "rank-0.json").write_bytes(body)
    line = LINE_MARK + body.decode("utf-8", "replace")
    found = [one for one in (read_outcome(tmp_path / "rank-0.json"), parse_outcome_line(line)) if one is not None]
    for outcome in found:
        assert isinstance(classify(outcome), str)
        assert choose_strongest([outcome, OUTCOME]) in (outcome, OUTCOME)
        assert parse_outcome_line(LINE_MARK + outcome.to_json()) == outcome
        assert len(outcome.message.splitlines()) <= 1
