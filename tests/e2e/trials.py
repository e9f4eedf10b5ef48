"""Running a Run to its end while it is being killed and its server stopped, always with the same command."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.e2e.desk import Desk
from tests.e2e.processes import Process, list_processes
from tests.servers import Versitygw

PATIENCE_SECONDS = 120.0
"""How long what a kill leaves behind may take to end: no more than torchrun and its ranks need to notice."""

MOST_COMMANDS_BEYOND = 5
"""A Run that needs so many more commands than it was killed is not getting anywhere."""

_PROGRESS = re.compile(r"^(\S+) \| .*\b(?:step|sample|judged|scored) (\d+)/(\d+)")


@dataclass(kw_only=True)
class Command:
    """One `tandem run` under way."""

    desk: Desk
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """Of standard error, as they come."""
    progress: dict[str, float] = field(default_factory=dict)
    """Stage, without a score's id -> share of its work that its newest line reports."""
    processes: list[Process] = field(default_factory=list)
    """As last looked at."""
    executions: dict[str, str] = field(default_factory=dict)
    """Stage -> the execution that was last seen at work on it."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def look(self) -> None:
        """Look at the processes. A stage never has processes of two attempts."""
        self.processes = list_processes(self.desk)
        for stage in {process.stage for process in self.processes if process.stage}:
            executions = {process.execution for process in self.processes if process.stage == stage}
            assert len(executions) == 1, f"{stage} is worked on by {executions} at once: {self.processes}"
            (execution,) = executions
            if execution is not None and self.executions.get(stage) != execution:
                self.executions[stage] = execution
                self.progress[stage] = 0.0

    def read(self) -> None:
        """Take in what it says, to the end of its standard error."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := _PROGRESS.match(line):
                self.progress[found[1]] = int(found[2]) / max(1, int(found[3]))


@contextmanager
def started(desk: Desk, file: str, store_url: str) -> Iterator[Command]:
    """A `tandem run` that does not outlive the block."""
    with (desk.folder / "answer.json").open("w") as answer:
        process = subprocess.Popen(
            [sys.executable, "-m", "tandem", "run", file, "--store", store_url, "-o", "json"],
            cwd=desk.folder,
            env=desk.environment,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    command = Command(desk=desk, process=process)
    reader = threading.Thread(target=command.read)
    reader.start()
    try:
        yield command
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


class Trial(Protocol):
    """Something that is done to a Run, once."""

    def is_due(self, command: Command) -> bool:
        """Whether the moment has come; asked often."""
        ...

    def act(self, command: Command) -> str | None:
        """Do it, and say what was done; None if it was too late, so that it is still to be done."""
        ...

    def begin(self, *, anew: bool = False) -> None:
        """Forget what was seen of a command that has ended; anew: with its Run."""
        ...

    def is_near(self, command: Command) -> bool:
        """Whether the moment is short and may come any millisecond."""
        ...


@dataclass(kw_only=True)
class Kill:
    """kill -9 of one process of the Run, some time after a stage has come so far."""

    stage: str
    """As `tandem run` names it, the id of a score's settings left out."""
    share: float
    """Of the stage's work, as far as it is reported."""
    seconds: float
    """After that."""
    draw: float
    """0 to 1: which of the processes there are then."""
    since: float | None = None
    begun: bool = False
    """Whether the stage was seen at work in this Run."""

    def is_due(self, command: Command) -> bool:
        """See Trial."""
        if self.since is None:
            begun = any(stage.startswith(self.stage) for stage in command.executions)
            self.begun = self.begun or begun
            share = max((done for stage, done in command.progress.items() if stage.startswith(self.stage)), default=0.0)
            if begun and share >= self.share:
                self.since = time.monotonic()
        return self.since is not None and time.monotonic() >= self.since + self.seconds

    def begin(self, *, anew: bool = False) -> None:
        """See Trial; where the moment was waited for in vain, it comes sooner now.

        In a whole Run every stage gets to its end, so one that never came so far had nothing to report: of a base
        without markers nothing is judged.
        """
        if self.since is not None:
            self.seconds /= 4
            self.share /= 2
        elif self.begun and anew:
            self.share = 0.0
        self.since = None
        self.begun = self.begun and not anew

    def is_near(self, command: Command) -> bool:
        """See Trial."""
        return False

    def act(self, command: Command) -> str | None:
        """See Trial; returns once what cannot live without the victim has ended too."""
        command.look()
        victims = [process for process in command.processes if process.role != "helper"]
        roles = sorted({(process.stage or "", process.role) for process in victims})
        if not roles:
            return None
        chosen = roles[int(self.draw * len(roles))]
        victim = next(process for process in victims if (process.stage or "", process.role) == chosen)
        try:
            victim.kill()
        except ProcessLookupError:
            return None
        _wait_until_gone(command.desk, victim)
        reached = ", ".join(f"{stage} {share:.0%}" for stage, share in sorted(command.progress.items()))
        return f"killed {victim.role} of {victim.stage or 'the Run'} at {reached}"


def _wait_until_gone(desk: Desk, victim: Process) -> None:
    """With `tandem run` everything of the Run ends; with another process, everything of its attempt."""
    left = _dependents(desk, victim)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left and time.monotonic() < deadline:
        _pause(0.05)
        left = _dependents(desk, victim)
    assert not left, f"{PATIENCE_SECONDS:.0f} s after {victim} was killed these go on: {left}"


def _dependents(desk: Desk, victim: Process) -> list[Process]:
    return [
        process for process in list_processes(desk) if victim.role == "run" or process.execution == victim.execution
    ]


@dataclass(kw_only=True)
class Outage:
    """The S3 server is killed as soon as it holds a file of a kind, and comes back after a while."""

    gateway: Versitygw
    stage: str
    """Whose attempts write such files."""
    pattern: str
    """Of the object's file below the folder of all buckets."""
    seconds: float
    """Until it comes back; infinity: only when the command has given up."""

    def is_due(self, command: Command) -> bool:
        """See Trial."""
        return self.is_near(command) and next(self.gateway.objects.glob(self.pattern), None) is not None

    def begin(self, *, anew: bool = False) -> None:
        """See Trial."""

    def is_near(self, command: Command) -> bool:
        """See Trial: the files that are written together all arrive within milliseconds."""
        return any(stage.startswith(self.stage) for stage in command.executions)

    def act(self, command: Command) -> str:
        """See Trial; returns when the server is back."""
        self.gateway.stop()
        found = sorted(path.name for path in self.gateway.objects.glob(self.pattern))
        began = time.monotonic()
        while time.monotonic() < began + self.seconds and not command.is_over:
            _pause(0.05)
        self.gateway.start()
        gave_up = f"; the command had ended with {command.process.returncode}" if command.is_over else ""
        return f"stopped the server for {time.monotonic() - began:.0f} s when it held {', '.join(found)}{gave_up}"


def stop_while_writing(gateway: Versitygw, prefix: str, seconds: float) -> list[Outage]:
    """An outage in the middle of a checkpoint, of predictions and of a result; prefix is bucket and store's prefix."""
    files = {
        "train": "train/executions/*/checkpoints/*/*",
        "generate": "evals/*/generate/*/executions/*/part-*.jsonl",
        "score": "evals/*/scores/*/executions/*/*",
    }
    return [
        Outage(gateway=gateway, stage=stage, pattern=f"{prefix}/runs/local/*/{pattern}", seconds=seconds)
        for stage, pattern in files.items()
    ]


@dataclass(kw_only=True)
class Story:
    """What was done to a Run, and how each command ended."""

    done: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    answer: Any = None
    """What the last command printed."""
    left: list[Trial] = field(default_factory=list)
    """What was not done: its moment never came."""


def run_through(desk: Desk, file: str, store_url: str, trials: Sequence[Trial], say: Callable[[str], None]) -> Story:
    """Give the same command until the Run has succeeded, and do everything to it meanwhile, one thing at a time.

    Each trial waits for its moment. However a command has ended, no process of the Run is left. Fails if the Run does
    not get on.
    """
    story, pending = Story(), list(trials)
    while not story.codes or story.codes[-1] != 0:
        assert len(story.codes) < len(trials) + MOST_COMMANDS_BEYOND, story
        for trial in pending:
            trial.begin(anew=not story.codes)
        with started(desk, file, store_url) as command:
            next_look = 0.0
            while not command.is_over:
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + 0.2
                    command.look()
                due = next((trial for trial in pending if trial.is_due(command)), None)
                done = None if due is None else due.act(command)
                if due is not None and done is not None:
                    pending.remove(due)
                    story.done.append(done)
                    say(done)
                elif due is not None:
                    due.begin()
                _pause(0.002 if any(trial.is_near(command) for trial in pending) else 0.02)
        story.codes.append(command.process.returncode)
        assert not list_processes(desk)
        say(f"the command ended with {story.codes[-1]}" + "".join(f"\n    {line}" for line in command.lines[-3:]))
    story.left = pending
    story.answer = json.loads((desk.folder / "answer.json").read_text())
    return story


STAGES = ("train", "generate/base", "generate/adapter", "score/base", "score/adapter")
"""Of the demo's Run."""

_LONGEST_SECONDS = {"train": 6.0, "generate": 8.0, "score": 4.0}
"""After what is reported: long enough to hit start, work, upload and commit."""


def draw_kills(count: int, seed: int, among: Sequence[str] = (*STAGES, "train")) -> list[Kill]:
    """So many kills at random moments; every stage has its turn before one has it again, training twice."""
    draw = random.Random(seed)  # noqa: S311
    stages: list[str] = []
    while len(stages) < count:
        stages += draw.sample(among, len(among))
    return [
        Kill(
            stage=stage,
            share=draw.random() if stage == "train" else draw.choice([0.0, draw.random()]),
            seconds=draw.uniform(0, _LONGEST_SECONDS[stage.split("/")[0]]),
            draw=draw.random(),
        )
        for stage in stages[:count]
    ]


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
