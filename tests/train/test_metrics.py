from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from tandem.train.metrics import Display, MetricsFile, Throughput, measure_memory


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rates_are_of_the_time_since_the_last_look() -> None:
    times = iter([10.0, 12.0, 16.0])
    throughput = Throughput(clock=lambda: next(times))
    throughput.add(samples=4, tokens=100)
    assert throughput.take() == {"samples_per_second": 2.0, "tokens_per_second": 50.0}
    throughput.add(samples=4, tokens=8)
    assert throughput.take() == {"samples_per_second": 1.0, "tokens_per_second": 2.0}


def test_each_measurement_is_one_json_line(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "out" / "metrics.jsonl")
    metrics.write(1, {"loss": 0.5})
    metrics.write(2, {"validation_loss": 0.25})
    metrics.close()
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "validation_loss": 0.25}]


def test_lines_are_added_to_those_of_an_earlier_attempt(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    MetricsFile(path).write(2, {"loss": 1.0})
    assert len(path.read_text().splitlines()) == 2


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    display = Display(5, first=2, stream=stream)
    display.advance()
    display.show(3, {"loss": 0.5})
    display.close()
    assert "3/5" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_anything_else_gets_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    display = Display(5, stream=stream)
    display.advance()
    with caplog.at_level(logging.INFO, logger="tandem.train"):
        display.show(3, {"loss": 0.51239})
    assert caplog.messages == ["step 3/5  loss 0.5124"]
    assert stream.getvalue() == ""


def test_memory_is_in_bytes() -> None:
    assert 10_000_000 < measure_memory() < 10**12
