"""The benchmarks of `make bench`, at small sizes: that they run, compare like with like, and say what they say."""

from __future__ import annotations

from pathlib import Path

from tests.bench.running import run


def test_batched_generation_is_compared_with_one_by_one_on_the_same_texts() -> None:
    result = run("generation", "--samples", "12", "--one-by-one", "3", "--new-tokens", "6")
    assert result["texts_that_differ"] == 0
    assert result["texts_that_differ_from_transformers"] == 0
    assert result["new_tokens"] > 12
    assert result["times_faster"] > 0


def test_the_loss_at_the_labels_is_compared_with_all_logits_on_the_same_gradients() -> None:
    result = run("logits", "--tokens", "96", "--labelled", "12", "--vocabulary", "4096", "--repeat", "1")
    full = result["ways"]["full"]
    assert full["gradient"] > 0
    for way in ("labels", "fused"):
        assert result["ways"][way]["largest_difference_of_gradients"] < 1e-5 * full["gradient"]
        assert result["ways"][way]["seconds"] > 0


def test_packed_training_is_compared_with_padded_on_the_same_loss() -> None:
    result = run("packing", "--global-size", "8", "--packed-tokens", "512", "--repeat", "1")
    padded, packed = result["ways"]["padded"], result["ways"]["packed"]
    assert abs(padded["loss"] - packed["loss"]) < 1e-4
    assert padded["places_for_a_token"] > packed["places_for_a_token"] == 1


def test_a_tree_is_timed_to_and_from_an_s3_server() -> None:
    result = run("s3", "--megabytes", "20")
    assert result["files"] == 104
    assert result["megabytes"] == 20
    for direction in ("up", "down"):
        assert set(result[direction]["seconds"]) == {"ours", "plain", "plain_at_once"}


def test_a_training_with_uploads_is_compared_with_one_without(tmp_path: Path) -> None:
    small = ("--steps", "4", "--every", "2", "--rank", "4", "--rounds", "1", "--slow", "0.01")
    result = run("uploads", *small, "--store", str(tmp_path / "store"))
    assert result["checkpoint_bytes"] > 10_000
    assert result["ways"]["none"]["loses"] == 0
    assert set(result["ways"]) == {"none", "background", "waiting"}
    assert all(way["seconds"] > 0 for way in result["ways"].values())


def test_a_judge_is_asked_faster_than_one_at_a_time_and_not_twice() -> None:
    result = run("judge", "--samples", "40", "--one-at-a-time", "3", "--concurrency", "8", "--milliseconds", "50")
    assert result["times_faster"] > 1
    assert result["verdicts"] == {"wrong": 40}
    assert result["calls_second_scoring"] == 0
    failing = result["with_failures"]
    assert sum(failing["verdicts"].values()) == 40
    assert sum(failing["reasons"].values()) == failing["verdicts"].get("unscored", 0)


def test_a_preflight_of_many_samples_is_timed() -> None:
    result = run("preflight", "--samples", "60", "--side", "56", "--words", "8")
    assert result["samples"] == 60
    assert result["seconds"] > 0
