"""What a user asks of a cluster, of the real API server and of the one in memory."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.control.api import POD, RUN, Busy, Kind, Object
from tandem.control.client import (
    await_first_look,
    find_run,
    follow_run,
    is_final,
    is_seen,
    list_runs,
    read_logs,
    require_runs,
    submit_run,
    want,
)
from tandem.control.cluster import Cluster
from tandem.control.fake import FakeApi
from tandem.errors import BadConfiguration, Fault
from tandem.spec import Desired
from tests.cluster import ApiServer
from tests.control.servers import Server
from tests.control.world import SPEC


def body(name: str = "demo", **changes: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {**SPEC, **changes}}


def give_status(server: Server, run: Object, **status: Any) -> Object:
    found = {"observedGeneration": run["metadata"]["generation"], "phase": "Running", **status}
    name = run["metadata"]["name"]
    return server.api.apply_status(RUN, server.namespace, name, found, manager="tandem-controller")


def test_the_same_run_twice_is_one_whatever_is_desired_of_it(server: Server) -> None:
    first = submit_run(server.api, server.namespace, body())
    assert first.is_new
    want(server.api, first.run, Desired.SUSPENDED)
    second = submit_run(server.api, server.namespace, body())
    assert not second.is_new
    assert second.run["metadata"]["uid"] == first.run["metadata"]["uid"]
    assert second.run["spec"]["desired"] == "Suspended"


def test_another_spec_under_a_name_that_is_taken_is_refused(server: Server) -> None:
    submit_run(server.api, server.namespace, body())
    for dry_run in (False, True):
        with pytest.raises(BadConfiguration, match=r"demo: another Run with this name is there.*--name"):
            submit_run(server.api, server.namespace, body(seed=1), dry_run=dry_run)


def test_a_dry_run_makes_no_run(server: Server) -> None:
    assert submit_run(server.api, server.namespace, body(), dry_run=True).is_new
    assert list_runs(server.api, server.namespace) == []


def test_what_is_left_to_the_server_has_a_new_name_each_time(server: Server) -> None:
    left = {"metadata": {"generateName": "demo-"}, "spec": SPEC}
    names = {submit_run(server.api, server.namespace, left).run["metadata"]["name"] for _ in range(2)}
    assert len(names) == 2
    assert [run["metadata"]["name"] for run in list_runs(server.api, server.namespace)] == sorted(names)


def test_a_run_is_found_by_its_name_first_then_by_its_id(server: Server) -> None:
    for name, id_ in (("demo", "demo-0123456789"), ("demo-01", "demo-01-aaaaaaaaaa")):
        give_status(server, submit_run(server.api, server.namespace, body(name)).run, runId=id_)
    for wanted, name in (
        ("demo", "demo"),
        ("demo-01", "demo-01"),
        ("demo-0123456789", "demo"),
        ("demo-01-a", "demo-01"),
    ):
        assert find_run(server.api, server.namespace, wanted)["metadata"]["name"] == name
    with pytest.raises(BadConfiguration, match="2 Runs have ids that start so"):
        find_run(server.api, server.namespace, "demo-")
    for wanted in ("other", ""):
        with pytest.raises(BadConfiguration, match="no Run has this name or id"):
            find_run(server.api, server.namespace, wanted)


def test_a_cancelled_run_does_not_go_on(server: Server) -> None:
    run = want(server.api, submit_run(server.api, server.namespace, body()).run, Desired.CANCELLED)
    assert run["spec"]["desired"] == "Cancelled"
    if isinstance(server.api, Cluster):
        with pytest.raises(BadConfiguration, match="a cancelled Run stays cancelled"):
            want(server.api, run, Desired.ACTIVE)


def test_a_controller_has_looked_once_it_reports_this_generation(server: Server) -> None:
    run = submit_run(server.api, server.namespace, body()).run
    slept: list[float] = []
    assert not is_seen(await_first_look(server.api, run, sleep=slept.append, seconds=2))
    assert sum(slept) == 2

    def look(seconds: float) -> None:
        slept.append(seconds)
        give_status(server, run)

    slept.clear()
    assert is_seen(await_first_look(server.api, run, sleep=look, seconds=60))
    assert len(slept) == 1


def test_following_tells_each_change_once_until_the_end(server: Server) -> None:
    run = submit_run(server.api, server.namespace, body()).run
    news = [{"phase": "Running"}, {}, {"phase": "Running", "message": "waits"}, {"phase": "Succeeded"}]

    def sleep(_seconds: float) -> None:
        change = news.pop(0)
        if change:
            give_status(server, run, **change)

    seen = [one.get("status", {}) for one in follow_run(server.api, run, sleep=sleep, say=pytest.fail)]
    assert [(one.get("phase"), one.get("message")) for one in seen] == [
        (None, None),
        ("Running", None),
        ("Running", "waits"),
        ("Succeeded", None),
    ]
    assert news == []


def test_following_a_run_that_is_over_ends_at_once(server: Server) -> None:
    run = give_status(server, submit_run(server.api, server.namespace, body()).run, phase="Failed")
    assert is_final(run)
    slept: list[float] = []
    assert list(follow_run(server.api, run, sleep=slept.append, say=pytest.fail)) == [run]
    assert slept == []


def test_following_a_run_that_somebody_deletes_ends_with_a_fault(server: Server) -> None:
    run = submit_run(server.api, server.namespace, body()).run

    def make_anew(_seconds: float) -> None:
        server.api.delete(RUN, server.namespace, "demo")
        submit_run(server.api, server.namespace, body())

    with pytest.raises(BadConfiguration, match="was deleted while it was followed"):
        list(follow_run(server.api, run, sleep=make_anew, say=pytest.fail))


def test_a_cluster_that_is_away_for_a_while_is_waited_for_and_named_once() -> None:
    fake = FakeApi()
    server = Server(api=fake, namespace="team")
    run = submit_run(fake, "team", body()).run
    away = [True, True, False]

    def before(verb: str, kind: Kind, _name: str) -> None:
        if verb == "get" and kind == RUN and away and away.pop(0):
            raise Busy(Fault(where="Run team/demo", what="the cluster cannot be reached", remedy="Wait."))

    fake.before = before
    said: list[str] = []

    def sleep(_seconds: float) -> None:
        if not away:
            give_status(server, run, phase="Succeeded")

    assert [is_final(one) for one in follow_run(fake, run, sleep=sleep, say=said.append)] == [False, True]
    assert len(said) == 1
    assert "waiting: Run team/demo: the cluster cannot be reached" in said[0]


def test_logs_are_those_of_the_pods_that_the_run_has_now() -> None:
    fake = FakeApi()
    server = Server(api=fake, namespace="team")
    run = give_status(server, submit_run(fake, "team", body()).run, runId="demo-0123456789")
    for name, labels in (
        ("a", {"tandem.dev/run-id": "demo-0123456789", "tandem.dev/stage": "train"}),
        ("b", {"tandem.dev/run-id": "demo-0123456789", "tandem.dev/stage": "score"}),
        ("new", {"tandem.dev/run-id": "demo-0123456789", "tandem.dev/stage": "score"}),
        ("other", {"tandem.dev/run-id": "other-0123456789", "tandem.dev/stage": "train"}),
    ):
        fake.create(
            POD, "team", {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "c"}]}}
        )
        if name != "new":
            fake.logs["team", name] = name.encode()
    assert read_logs(fake, run) == {"a": b"a", "b": b"b"}
    assert read_logs(fake, run, "score/adapter") == {"b": b"b"}
    assert read_logs(fake, submit_run(fake, "team", body("fresh")).run) == {}


def test_a_cluster_without_the_custom_resource_says_what_to_install() -> None:
    fake = FakeApi(unknown=frozenset({"runs"}))
    for ask in (lambda: submit_run(fake, "team", body()), lambda: list_runs(fake, "team")):
        with pytest.raises(BadConfiguration, match=r"knows no Runs. Have the chart tandem-crds installed"):
            ask()


def test_the_real_server_tells_a_missing_namespace_from_missing_runs(real: Cluster, api_server: ApiServer) -> None:
    require_runs(real, "nowhere")
    with pytest.raises(BadConfiguration, match='namespaces "nowhere" not found'):
        submit_run(real, "nowhere", body())
    assert api_server.kubeconfig.exists()
