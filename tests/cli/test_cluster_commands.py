"""The commands that ask a cluster, with a controller and an API server in memory; and how they reach a real one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.cli import main
from tandem.cli.where import DEFAULT_STORE, Login, choose_store
from tandem.control.api import RUN, Forbidden, Kind
from tandem.errors import Fault
from tandem.spec import run_id
from tests.cluster import ApiServer
from tests.control.world import CRASH, NAMESPACE, SPEC, World

Answer = tuple[int, str, str]
Tandem = Callable[..., Answer]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A cluster in memory; its controller looks at everything whenever a command waits."""
    made = World(folder=tmp_path)
    made.api.namespace = NAMESPACE
    monkeypatch.setattr(Login, "connect", lambda _login: made.api)
    monkeypatch.setattr(time, "sleep", lambda _seconds: made.settle())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TANDEM_STORE", raising=False)
    return made


@pytest.fixture
def tandem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tandem:
    """A command line: exit code, output and error output."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["tandem", *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def write_run(name: str = "demo", **changes: Any) -> str:
    document = {"apiVersion": "tandem.dev/v1alpha1", "kind": "Run", "metadata": {"name": name}}
    Path("run.yaml").write_text(yaml.safe_dump({**document, "spec": {**SPEC, **changes}}))
    return "run.yaml"


def test_a_run_is_submitted_as_it_was_written_and_its_controller_looks_at_it(world: World, tandem: Tandem) -> None:
    code, out, err = tandem("submit", write_run())
    assert code == 0, err
    assert f"Run {NAMESPACE}/demo: submitted" in err
    assert run_id("demo", SPEC) in out
    assert world.run()["spec"] == SPEC


def test_submitted_twice_it_is_one_run(world: World, tandem: Tandem) -> None:
    tandem("submit", write_run())
    uid = world.run()["metadata"]["uid"]
    code, _, err = tandem("submit", "run.yaml")
    assert code == 0
    assert "was submitted before" in err
    assert world.run()["metadata"]["uid"] == uid


def test_the_run_can_get_another_name_or_one_that_is_new_each_time(world: World, tandem: Tandem) -> None:
    file = write_run()
    assert tandem("submit", file, "--name", "nightly-29712345")[0] == 0
    assert tandem("submit", file, "--again")[0] == 0
    assert tandem("submit", file, "--again")[0] == 0
    names = [run["metadata"]["name"] for run in world.api.list(RUN, NAMESPACE).items]
    assert len(names) == 3
    assert "nightly-29712345" in names
    code, _, err = tandem("submit", file, "--name", "No Name")
    assert (code, len(err.splitlines())) == (78, 1)
    assert "--name: 'No Name' is no name of a Run" in err


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(world: World, tandem: Tandem) -> None:
    code, out, _ = tandem("submit", write_run(), "--dry-run")
    assert code == 0
    assert yaml.safe_load(out) == {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"name": "demo"},
        "spec": SPEC,
    }
    assert json.loads(tandem("submit", "run.yaml", "--dry-run", "-o", "json")[1]) == yaml.safe_load(out)
    assert world.api.list(RUN, NAMESPACE).items == ()


def test_waiting_shows_progress_and_ends_with_the_figures(
    world: World, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: world.play_jobs())
    code, out, err = tandem("submit", write_run(), "--wait")
    assert code == 0, err
    assert f"Run {NAMESPACE}/demo: Succeeded" in out
    assert "adapter     accuracy" in out
    assert "train, attempt 1" in err


def test_waiting_for_a_run_that_fails_says_why_and_what_to_do(
    world: World, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: world.play_jobs(lambda _: CRASH))
    code, out, _ = tandem("submit", write_run(maxAttempts=1), "--wait")
    assert code == 1
    assert "Failed" in out
    assert "message:    train: it broke (exit code 1)" in out
    assert "remedy:     See the log." in out


def test_what_no_profile_can_run_is_refused_with_the_reason(world: World, tandem: Tandem) -> None:
    file = write_run(profiles={"train": "nowhere"})
    for wait in ((), ("--wait",)):
        code, out, _ = tandem("submit", file, *wait)
        assert code == 78
        assert "spec.profiles.train: nowhere is not a profile here" in out


def test_inputs_that_pods_cannot_read_are_named_all_at_once_with_other_faults(world: World, tandem: Tandem) -> None:
    file = write_run(
        model={"source": "base"},
        evals=[{"name": "adapter", "data": "held.json", "shard": 2}],
    )
    code, _, err = tandem("submit", file)
    assert code == 78
    for place in ("spec.model.source: base", "spec.evals[adapter].data: held.json"):
        assert f"tandem: {place}" in err
    assert "shard" in err
    assert "tandem push FILE --store URL" in err
    assert world.api.list(RUN, NAMESPACE).items == ()


def test_a_namespace_without_a_controller_is_noticed(
    world: World, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    code, _, err = tandem("submit", write_run())
    assert code == 0
    assert f"warning: namespace {NAMESPACE}: no controller has looked at the Run for 15 s" in err
    code, _, err = tandem("submit", "run.yaml", "--wait")
    assert code == 75
    assert f"tandem: namespace {NAMESPACE}: no controller" in err


def test_the_namespace_of_the_file_and_of_the_option_must_not_differ(world: World, tandem: Tandem) -> None:
    text = Path(write_run()).read_text().replace("name: demo", "name: demo\n  namespace: other")
    Path("run.yaml").write_text(text)
    code, _, err = tandem("submit", "run.yaml", "-n", "team")
    assert code == 78
    assert err.startswith("tandem: metadata.namespace: the Run file is for namespace other, and --namespace says team")
    assert world.api.list(RUN, NAMESPACE).items == ()


def test_who_may_only_get_list_and_create_runs_can_submit(world: World, tandem: Tandem) -> None:
    def allow(verb: str, kind: Kind, name: str) -> None:
        if not (kind == RUN and verb in ("get", "list", "create")):
            raise Forbidden(Fault(where=f"{kind.kind} {name}", what=f"may not {verb}", remedy="Ask."))

    world.api.before = allow
    monkeyed = tandem("submit", write_run())
    assert "may not" not in monkeyed[2]


def test_a_run_pauses_goes_on_and_ends_as_it_is_told(world: World, tandem: Tandem) -> None:
    tandem("submit", write_run())
    for command, desired in (("suspend", "Suspended"), ("resume", "Active"), ("cancel", "Cancelled")):
        code, out, err = tandem(command, "demo")
        assert code == 0, err
        assert world.run()["spec"]["desired"] == desired
        assert f"Run {NAMESPACE}/demo" in out
        world.settle()
    assert "Cancelled" in tandem("status", "demo")[1]
    assert tandem("suspend", "demo")[0] == 0
    assert world.run()["spec"]["desired"] == "Cancelled"


def test_list_and_status_show_where_runs_stand_in_three_formats(world: World, tandem: Tandem) -> None:
    assert tandem("list")[1] == f"no Runs in namespace {NAMESPACE}\n"
    tandem("submit", write_run())
    world.play()
    table = tandem("list")[1].splitlines()
    assert table[0].split() == ["name", "phase", "stage", "attempt", "progress", "figures", "age"]
    assert table[1].split()[:2] == ["demo", "Succeeded"]
    (listed,) = json.loads(tandem("list", "-o", "json")[1])
    found = json.loads(tandem("status", "demo", "-o", "json")[1])
    assert found == yaml.safe_load(tandem("status", "demo", "-o", "yaml")[1]) == listed == world.run()
    assert tandem("status", world.status()["runId"])[1] == tandem("status", "demo")[1]
    code, _, err = tandem("status", "other")
    assert (code, len(err.splitlines())) == (78, 1)
    assert f"RUN 'other' in namespace {NAMESPACE}: no Run has this name or id" in err


def test_logs_are_those_of_pods_and_of_attempts_whose_pods_are_gone(world: World, tandem: Tandem) -> None:
    tandem("submit", write_run())
    world.play()
    code, out, err = tandem("logs", "demo")
    assert code == 0, err
    assert "==> train/attempts/001/logs/" in out
    assert "==> evals/adapter/" in out
    only = json.loads(tandem("logs", "demo", "--stage", "train", "-o", "json")[1])
    assert only
    assert all(name.startswith("train/") for name in only)


def test_logs_say_where_the_rest_is_if_the_store_cannot_be_read(
    world: World, tandem: Tandem, monkeypatch: pytest.MonkeyPatch
) -> None:
    tandem("submit", write_run())
    world.play()
    world.api.change(RUN, NAMESPACE, "demo", {"status": {"folder": "s3://nowhere/tandem/runs/"}})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, out, err = tandem("logs", "demo")
    assert code == 0
    assert "no logs yet" in out
    assert "warning: logs of pods that are gone cannot be read here: s3://nowhere at" in err


@pytest.mark.parametrize(
    ("given", "is_folder_there", "chosen"),
    [
        (("s3://a/b", Login(namespace="team")), True, "s3://a/b"),
        (("", Login()), True, DEFAULT_STORE),
        (("", Login()), False, None),
        (("", Login(namespace="team")), True, None),
        (("", Login(context="prod")), True, None),
        (("", Login(kubeconfig="file")), True, None),
    ],
)
def test_where_a_command_looks(
    given: tuple[str, Login],
    is_folder_there: bool,
    chosen: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if is_folder_there:
        (tmp_path / DEFAULT_STORE).mkdir()
    assert choose_store(*given) == chosen


def test_a_real_server_is_reached_as_kubectl_reaches_it(
    api_server: ApiServer, tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_server.install_runs()
    api_server.kubectl("create", "namespace", "cli")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    login = ("--kubeconfig", str(api_server.kubeconfig), "--namespace", "cli")
    assert tandem("submit", write_run(), "--dry-run", *login)[0] == 0
    code, out, err = tandem("submit", "run.yaml", *login)
    assert code == 0, err
    assert "not looked at yet by a controller" in out
    assert tandem("list", *login)[1].splitlines()[1].startswith("demo")
    assert tandem("cancel", "demo", *login)[0] == 0
    code, _, err = tandem("resume", "demo", *login)
    assert (code, len(err.splitlines())) == (78, 1)
    assert "a cancelled Run stays cancelled" in err
    code, _, err = tandem("submit", write_run(seed=1), *login)
    assert (code, len(err.splitlines())) == (78, 1)
    assert "another Run with this name is there" in err
    for wrong, said in (
        (("--kubeconfig", "nowhere"), "nowhere: cannot be used"),
        ((*login, "--context", "nowhere"), "cannot be used"),
    ):
        code, _, err = tandem("list", *wrong)
        assert (code, len(err.splitlines())) == (78, 1)
        assert said in err
