"""Attempts as subprocesses of this machine; what is known about a Run is read from the store each time."""

from __future__ import annotations

import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tandem.control.plan import Attempt, Commit, Observed, Start, State, Stop
from tandem.control.settings import ensure_settings
from tandem.control.stages import Kind, Stage
from tandem.outcome import Outcome, parse_outcome_line
from tandem.record.commit import is_committed, list_executions, write_commit
from tandem.spec import RunSpec
from tandem.stage.facts import Facts, to_environment
from tandem.store import Corrupt, Store
from tandem.store.layout import RunPlace

KILL_AFTER_SECONDS = 330
"""How long an attempt may take to save its work after SIGTERM."""

_NUMBER = re.compile(r"^(\d+)-")


@dataclass(kw_only=True)
class Said:
    """What an attempt has said up to now."""

    lines: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


@dataclass(kw_only=True)
class Running:
    """An attempt of this process."""

    attempt: Attempt
    execution: str
    process: subprocess.Popen[str]
    watcher: threading.Thread
    said: Said


@dataclass(kw_only=True)
class LocalBackend:
    """Runs `at_once` attempts of each kind at a time on this machine: texts are scored while others are generated."""

    store: Store
    place: RunPlace
    spec: RunSpec
    record_sha256: str
    cache: Path
    scratch: Path
    environment: Mapping[str, str]
    now: Callable[[], float]
    sleep: Callable[[float], None]
    say: Callable[[str, str], None]
    """Called with the stage and a line of its output, from several threads."""
    command: tuple[str, ...] = (sys.executable, "-m", "tandem")
    """What `stage <kind>` is added to."""
    at_once: int = 1
    """An accelerator has room for one that computes; small models on processors leave room for more."""
    ended: list[Attempt] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Executions whose manifest did not hold what it promised."""
    gone: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    """Stages whose attempt has ended and is not looked at yet."""

    def observe(self, stages: tuple[Stage, ...]) -> Observed:
        """What is committed, complete, running and ended right now."""
        committed = {stage.name for stage in stages if is_committed(self.store, self.place, stage.name)}
        complete: dict[str, str] = {}
        next_number: dict[str, int] = {}
        for stage in stages:
            if stage.name in committed:
                continue
            executions = list_executions(self.store, self.place, stage.name)
            whole = [name for name, is_whole in executions.items() if is_whole and name not in self.broken]
            if whole:
                complete[stage.name] = whole[-1]
            numbers = [int(found[1]) for name in executions if (found := _NUMBER.match(name))]
            numbers += [attempt.number for attempt in self.ended if attempt.stage == stage.name]
            next_number[stage.name] = max(numbers, default=0) + 1
        live = tuple(running.attempt for running in self.running.values())
        return Observed(
            committed=frozenset(committed),
            complete=complete,
            attempts=(*self.ended, *live),
            next_number=next_number,
            slots=dict.fromkeys(Kind, self.at_once),
        )

    def start(self, actions: Sequence[Start]) -> None:
        """Start each attempt in a process group of its own, which cannot outlive this process."""
        for action in actions:
            self._start(action)

    def stop(self, action: Stop) -> None:
        """Tell an attempt to save its work and end; it is killed if it takes too long."""
        running = self.running[action.stage]
        running.process.send_signal(signal.SIGTERM)
        timer = threading.Timer(KILL_AFTER_SECONDS, _kill_group, (running.process,))
        timer.daemon = True
        timer.start()
        stopping = running.attempt
        running.attempt = Attempt(
            stage=stopping.stage, number=stopping.number, state=State.STOPPING, started_at=stopping.started_at
        )

    def commit(self, action: Commit) -> None:
        """Let an execution count if it is whole; if not, it is never looked at again."""
        committed_at = datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="seconds")
        try:
            write_commit(self.store, self.place, action.stage, action.execution, committed_at)
        except Corrupt as error:
            self.broken.add(action.execution)
            self.say(action.stage, f"not counted: {error}")

    def wait(self, seconds: float) -> bool:
        """Wait at most this long for any attempt to end; whether one did, and then how is known."""
        if not self.running:
            self.sleep(seconds)
            return False
        try:
            stage = self.gone.get(timeout=seconds)
        except queue.Empty:
            return False
        running = self.running.pop(stage)
        running.watcher.join()
        self.ended.append(self._finish(running))
        return True

    def kill(self) -> None:
        """End every attempt at once."""
        for running in self.running.values():
            _kill_group(running.process)
        for running in self.running.values():
            running.process.wait()

    def _start(self, action: Start) -> None:
        if action.stage.startswith("score/"):
            ensure_settings(self.store, self.place, self.spec, action.stage)
        execution = f"{action.number:03d}-{secrets.token_hex(4)}"
        facts = Facts(
            store_url=self.store.url,
            place=self.place,
            run_sha256=self.record_sha256,
            stage=action.stage,
            attempt=action.number,
        )
        environment = {
            **self.environment,
            **to_environment(facts),
            "TANDEM_EXECUTION": execution,
            "TANDEM_PARENT": str(os.getpid()),
            "TANDEM_CACHE": str(self.cache),
            "TANDEM_WORK": str(self.scratch / f"{action.stage.replace('/', '-')}-{execution}"),
        }
        process = subprocess.Popen(
            [*self.command, "stage", action.stage.split("/")[0]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        attempt = Attempt(stage=action.stage, number=action.number, state=State.RUNNING, started_at=self.now())
        said = Said()
        watcher = threading.Thread(target=self._watch, args=(action.stage, process, said), daemon=True)
        self.running[action.stage] = Running(
            attempt=attempt, execution=execution, process=process, watcher=watcher, said=said
        )
        watcher.start()

    def _watch(self, stage: str, process: subprocess.Popen[str], said: Said) -> None:
        """Pass on what an attempt says, and tell when it has ended and nothing of its group is left."""
        reader = threading.Thread(target=self._read, args=(stage, process, said), daemon=True)
        reader.start()
        process.wait()
        _kill_group(process)
        reader.join()
        self.gone.put(stage)

    def _read(self, stage: str, process: subprocess.Popen[str], said: Said) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            outcome = parse_outcome_line(line)
            if outcome is not None:
                said.outcome = outcome
            else:
                said.lines.append(line)
                self.say(stage, line.rstrip("\n"))

    def _finish(self, running: Running) -> Attempt:
        self._keep_log(running)
        code = running.process.returncode
        killed = Outcome(
            exit_code=1,
            code="killed",
            message=f"the process ended without a word (exit code {code})",
            remedy="The machine may be out of memory: see its log.",
        )
        return Attempt(
            stage=running.attempt.stage,
            number=running.attempt.number,
            state=State.ENDED,
            started_at=running.attempt.started_at,
            ended_at=self.now(),
            outcome=running.said.outcome or killed,
        )

    def _keep_log(self, running: Running) -> None:
        """Put what the attempt said into the store, unless it has done so itself."""
        stage, execution = running.attempt.stage, running.execution
        if any(self.store.list(f"{self.place.execution(stage, execution)}logs/")):
            return
        key = self.place.attempt_log(stage, running.attempt.number, execution)
        self.store.put_if_absent(key, "".join(running.said.lines).encode())


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
