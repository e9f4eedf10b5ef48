"""Time a judge that takes 200 ms: `python -m bench.judge [--samples N]`; prints JSON.

Four scorings against a server on the loopback, in a process of its own: some calls one at a time; all of them at
once as far as allowed, into a store in a folder; all of them again from that store; and all of them once more on
a server that fails one call in five, in every way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_judge import FakeJudgeServer, break_some, exact_match_reply
from tandem.evaluate.judge import Item, JudgeSettings, judge_all
from tandem.evaluate.judge_cache import JudgeCache
from tandem.evaluate.judge_openai import OpenAIJudge
from tandem.evaluate.records import Verdict
from tandem.store import Directory

FAILING_SHARE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--one-at-a-time", type=int, default=25, help="calls to time one after another")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--milliseconds", type=float, default=200, help="what the server takes for a reply")
    parser.add_argument("--serve", type=float, metavar="SHARE", help="be the server, and fail this share of the calls")
    options = parser.parse_args()
    seconds = options.milliseconds / 1000
    if options.serve is not None:
        serve(seconds, options.serve)
        return
    figures: dict[str, Any] = {"samples": options.samples, "concurrency": options.concurrency, "cpus": os.cpu_count()}
    items = [
        Item(question="Which?", reference="A cyst.", prediction=f"cyst {number}") for number in range(options.samples)
    ]
    with tempfile.TemporaryDirectory() as folder, server(seconds, failing=0.0) as url:
        alone, _ = ask(url, items[: options.one_at_a_time], concurrency=1, store=None)
        spent, calls = ask(url, items, concurrency=options.concurrency, store=Path(folder))
        again, calls_again = ask(url, items, concurrency=options.concurrency, store=Path(folder))
    rate_alone, rate = options.one_at_a_time / alone, options.samples / spent
    figures |= {
        "calls_per_second_one_at_a_time": round(rate_alone, 2),
        "calls_per_second": round(rate, 1),
        "times_faster": round(rate / rate_alone, 1),
        "seconds": round(spent, 2),
        "verdicts": dict(Counter(verdict.verdict for verdict in calls)),
        "seconds_second_scoring": round(again, 2),
        "calls_second_scoring": sum(not verdict.cached for verdict in calls_again),
    }
    with tempfile.TemporaryDirectory() as folder, server(seconds, failing=FAILING_SHARE) as url:
        spent, verdicts = ask(url, items, concurrency=options.concurrency, store=Path(folder))
    reasons = Counter((verdict.reason or "").partition(":")[0] for verdict in verdicts if verdict.verdict == "unscored")
    figures["with_failures"] = {
        "share": FAILING_SHARE,
        "seconds": round(spent, 2),
        "verdicts": dict(Counter(verdict.verdict for verdict in verdicts)),
        "reasons": dict(reasons),
    }
    print(json.dumps(figures))


def ask(url: str, items: list[Item], *, concurrency: int, store: Path | None) -> tuple[float, list[Verdict]]:
    """Judge all items; how many seconds it took, and the verdicts."""
    settings = JudgeSettings(kind="openai", base_url=url, model="m", concurrency=concurrency, timeout_seconds=5)
    judge = OpenAIJudge(settings=settings, key="k", cache=JudgeCache(Directory(store)) if store else None)
    started = time.perf_counter()
    verdicts = judge_all(judge, items, concurrency=concurrency)
    spent = time.perf_counter() - started
    judge.close()
    assert len(verdicts) == len(items)
    return spent, list(verdicts.values())


def serve(seconds: float, failing: float) -> None:
    """Answer until standard input ends; the address is the one line of standard output."""
    chosen = break_some(exact_match_reply, share=failing, seed=0)

    def reply(request: Mapping[str, Any]) -> FakeReply:
        time.sleep(seconds)
        return chosen(request)

    with FakeJudgeServer(reply) as fake:
        print(fake.base_url, flush=True)
        sys.stdin.read()


@contextmanager
def server(seconds: float, *, failing: float) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", str(failing), "--milliseconds", str(seconds * 1000)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
