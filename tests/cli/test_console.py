"""What a terminal shows while two stages run at once."""

from __future__ import annotations

import io
import re
import threading

import pytest

from tandem.cli.console import Screen


class Terminal(io.StringIO):
    """A terminal that knows what tandem's lines need of it: erase a line, and one line up."""

    def __init__(self, *, tty: bool = True) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def rows(self) -> list[str]:
        rows, at = [""], 0
        for token in re.findall(r"\x1b\[1A|\r\x1b\[2K|\n|[^\x1b\r\n]+", self.getvalue()):
            match token:
                case "\x1b[1A":
                    at -= 1
                case "\r\x1b[2K":
                    rows[at] = ""
                case "\n":
                    at += 1
                    rows += [""] * (at == len(rows))
                case text:
                    rows[at] += text
        while len(rows) > 1 and not rows[-1]:
            rows.pop()
        return rows


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_each_stage_has_a_bar_of_its_own_below_the_lines() -> None:
    terminal = Terminal()
    screen = Screen(terminal)
    screen.tell("demo-1: in file:///store")
    screen.tell_stage_line("generate/b/0", "sample 1/4")
    screen.tell_stage_line("score/a/1", "judged 10/20")
    screen.tell_stage_line("generate/b/0", "sample 2/4")
    screen.tell_stage_line("score/a/1", "a warning")
    assert terminal.rows() == [
        "demo-1: in file:///store",
        "score/a/1 | a warning",
        "generate/b/0 [############............] sample 2/4",
        "score/a/1 [############............] judged 10/20",
    ]
    screen.tell_stage_line("score/a/1", "judged 20/20")
    assert terminal.rows()[1:] == [
        "score/a/1 | a warning",
        "score/a/1 [########################] judged 20/20",
        "generate/b/0 [############............] sample 2/4",
    ]
    screen.erase()
    assert terminal.rows()[-1] == "score/a/1 [########################] judged 20/20"


def test_a_bar_never_wraps() -> None:
    terminal = Terminal()
    Screen(terminal).tell_stage_line("generate/b/0", f"sample 1/4 {'x' * 100}")
    assert len(terminal.rows()[0]) == 59


def test_without_a_terminal_every_line_is_plain_and_whole_whoever_writes_at_the_same_time() -> None:
    stream = Terminal(tty=False)
    screen = Screen(stream)

    def write(stage: str) -> None:
        for number in range(200):
            screen.tell_stage_line(stage, f"sample {number}/200")

    threads = [threading.Thread(target=write, args=(f"stage-{name}",)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    for name in "ab":
        mine = [line for line in lines if line.startswith(f"stage-{name} | ")]
        assert mine == [f"stage-{name} | sample {number}/200" for number in range(200)]
    assert len(lines) == 400
