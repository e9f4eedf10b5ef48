"""The contract of an API server, kept by the real one and by the one in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.control.api import (
    ACCESS_REVIEW,
    CONFIG_MAP,
    JOB,
    NAMESPACE,
    POD,
    RUN,
    AlreadyExists,
    Change,
    Conflict,
    Expired,
    Kind,
    NotFound,
    Object,
    Refused,
    list_all,
)
from tandem.control.cluster import Cluster
from tandem.control.fake import FakeApi
from tests.control.profiles import score
from tests.control.servers import Server, make_namespace
from tests.control.world import SPEC

ROOT = Path(__file__).parents[2]


def config(name: str, value: str = "1", **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": {"a.test/key": "x", **labels}}, "data": {"value": value}}


def names(objects: list[Object]) -> list[str]:
    return sorted(one["metadata"]["name"] for one in objects if one["metadata"]["name"] != "kube-root-ca.crt")


def test_what_was_made_can_be_read_with_uid_and_version(server: Server) -> None:
    made = server.api.create(CONFIG_MAP, server.namespace, config("one"))
    found = server.api.get(CONFIG_MAP, server.namespace, "one")
    assert found["data"] == {"value": "1"}
    for key in ("uid", "resourceVersion", "creationTimestamp", "namespace"):
        assert found["metadata"][key] == made["metadata"][key] != ""


def test_a_name_is_taken_once(server: Server) -> None:
    server.api.create(CONFIG_MAP, server.namespace, config("one"))
    with pytest.raises(AlreadyExists):
        server.api.create(CONFIG_MAP, server.namespace, config("one", "2"))
    assert server.api.get(CONFIG_MAP, server.namespace, "one")["data"] == {"value": "1"}


def test_a_dry_run_makes_nothing_and_tells_of_a_taken_name(server: Server) -> None:
    server.api.create(CONFIG_MAP, server.namespace, config("one"), dry_run=True)
    with pytest.raises(NotFound):
        server.api.get(CONFIG_MAP, server.namespace, "one")
    server.api.create(CONFIG_MAP, server.namespace, config("one"))
    with pytest.raises(AlreadyExists):
        server.api.create(CONFIG_MAP, server.namespace, config("one"), dry_run=True)


def test_the_server_ends_a_name_that_is_left_to_it(server: Server) -> None:
    made = [
        server.api.create(CONFIG_MAP, server.namespace, {"metadata": {"generateName": "one-"}})["metadata"]["name"]
        for _ in range(2)
    ]
    assert all(name.startswith("one-") and len(name) == len("one-") + 5 for name in made)
    assert made[0] != made[1]


def test_what_is_not_there_is_not_found(server: Server) -> None:
    unknown = Kind(group="nowhere.test", version="v1", kind="Nothing", plural="nothings")
    for ask in (
        lambda: server.api.get(CONFIG_MAP, server.namespace, "none"),
        lambda: server.api.merge(CONFIG_MAP, server.namespace, "none", {"data": {}}),
        lambda: server.api.apply_status(RUN, server.namespace, "none", {"phase": "Pending"}, manager="m"),
        lambda: server.api.read_log(server.namespace, "none", "c"),
    ):
        with pytest.raises(NotFound):
            ask()
    if isinstance(server.api, FakeApi):
        server.api.unknown = frozenset({"nothings"})
    with pytest.raises(NotFound):
        server.api.list(unknown, server.namespace)


def test_a_listing_comes_in_pages_and_by_label(server: Server) -> None:
    for number in range(7):
        server.api.create(CONFIG_MAP, server.namespace, config(f"c{number}", parity=str(number % 2)))
    found, version = list_all(server.api, CONFIG_MAP, server.namespace, selector="a.test/key=x", limit=3)
    assert names(found) == [f"c{number}" for number in range(7)]
    assert int(version) > 0
    odd, _ = list_all(server.api, CONFIG_MAP, server.namespace, selector="a.test/key=x,parity=1", limit=2)
    assert names(odd) == ["c1", "c3", "c5"]
    assert {one["kind"] for one in found} == {"ConfigMap"}


def test_a_listing_may_be_of_all_namespaces(server: Server) -> None:
    other = f"{server.namespace}-other"
    if isinstance(server.api, Cluster):
        server.api.create(NAMESPACE, None, {"metadata": {"name": other}})
    for namespace in (server.namespace, other):
        server.api.create(CONFIG_MAP, namespace, config("one", mine=server.namespace))
    found, _ = list_all(server.api, CONFIG_MAP, None, selector=f"mine={server.namespace}", limit=1)
    assert sorted(one["metadata"]["namespace"] for one in found) == [server.namespace, other]


def test_a_server_says_which_kinds_it_knows(server: Server) -> None:
    unknown = [
        Kind(group="nowhere.test", version="v1", kind="Nothing", plural="nothings"),
        Kind(group="", version="v1", kind="Nothing", plural="nothings"),
    ]
    if isinstance(server.api, FakeApi):
        server.api.unknown = frozenset({"nothings"})
    assert [server.api.serves(kind) for kind in (RUN, JOB, POD, *unknown)] == [True, True, True, False, False]


def test_a_review_says_what_the_account_may_do(server: Server) -> None:
    asked = {"verb": "get", "group": "", "resource": "pods", "subresource": "log", "namespace": server.namespace}
    body = {"spec": {"resourceAttributes": asked}}
    assert server.api.create(ACCESS_REVIEW, None, body)["status"]["allowed"] is True
    if isinstance(server.api, FakeApi):
        server.api.forbidden = frozenset({("get", "pods/log")})
        assert server.api.create(ACCESS_REVIEW, None, body)["status"]["allowed"] is False


def test_a_watch_tells_what_happened_since_a_listing(server: Server) -> None:
    server.api.create(CONFIG_MAP, server.namespace, config("before"))
    _, version = list_all(server.api, CONFIG_MAP, server.namespace, selector="a.test/key=x")
    server.api.create(CONFIG_MAP, server.namespace, config("one"))
    server.api.merge(CONFIG_MAP, server.namespace, "one", {"data": {"value": "2"}})
    server.api.delete(CONFIG_MAP, server.namespace, "one")
    changes: list[Change] = []
    for change in server.api.watch(CONFIG_MAP, server.namespace, version=version, selector="a.test/key=x", seconds=5):
        if change.type != "BOOKMARK":
            changes.append(change)
        if len(changes) == 3:
            break
    told = [(change.type, change.object["metadata"]["name"], change.object["data"]["value"]) for change in changes]
    assert told == [("ADDED", "one", "1"), ("MODIFIED", "one", "2"), ("DELETED", "one", "2")]


def test_what_the_server_in_memory_has_forgotten_has_expired() -> None:
    fake = FakeApi()
    for number in range(3):
        fake.create(CONFIG_MAP, "a", config(f"c{number}"))
    rest = fake.list(CONFIG_MAP, "a", limit=1).rest
    fake.forget()
    with pytest.raises(Expired):
        list(fake.watch(CONFIG_MAP, "a", version="1"))
    with pytest.raises(Expired):
        fake.list(CONFIG_MAP, "a", rest=rest)


def test_deleting_what_is_gone_is_no_error_and_deleting_another_is(server: Server) -> None:
    made = server.api.create(CONFIG_MAP, server.namespace, config("one"))
    with pytest.raises(Conflict):
        server.api.delete(CONFIG_MAP, server.namespace, "one", uid="another")
    server.api.delete(CONFIG_MAP, server.namespace, "one", uid=made["metadata"]["uid"])
    server.api.delete(CONFIG_MAP, server.namespace, "one")
    with pytest.raises(NotFound):
        server.api.get(CONFIG_MAP, server.namespace, "one")


def test_a_patch_changes_what_it_names_and_null_takes_away(server: Server) -> None:
    server.api.create(CONFIG_MAP, server.namespace, config("one"))
    changed = server.api.merge(CONFIG_MAP, server.namespace, "one", {"data": {"more": "2", "value": None}})
    assert changed["data"] == {"more": "2"}


def test_a_status_is_applied_whole_and_the_spec_stays_as_it_was_submitted(server: Server) -> None:
    spec = {**SPEC, "limit": None}
    made = server.api.create(RUN, server.namespace, {"metadata": {"name": "demo"}, "spec": spec}, strict=True)
    assert made["spec"] == spec
    server.api.apply_status(RUN, server.namespace, "demo", {"phase": "Pending", "message": "waits"}, manager="m")
    server.api.apply_status(RUN, server.namespace, "demo", {"phase": "Running"}, manager="m")
    found = server.api.get(RUN, server.namespace, "demo")
    assert found["status"] == {"phase": "Running"}
    assert found["spec"] == spec
    assert found["metadata"]["generation"] == 1


def test_a_job_deleted_in_the_foreground_is_gone_after_its_pods(server: Server) -> None:
    job = server.api.create(JOB, server.namespace, {**score()["manifest"], "metadata": {"name": "one"}})
    reference = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "one",
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    body = {
        "metadata": {"name": "one-x", "ownerReferences": [reference]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "tandem", "image": "nowhere.invalid/image"}]},
    }
    server.api.create(POD, server.namespace, body)
    server.api.delete(JOB, server.namespace, "one", propagation="Foreground")
    assert "deletionTimestamp" in server.api.get(JOB, server.namespace, "one")["metadata"]
    until(lambda: "deletionTimestamp" in server.api.get(POD, server.namespace, "one-x")["metadata"])
    if isinstance(server.api, FakeApi):
        server.api.remove(POD, server.namespace, "one-x")
    else:
        end_pods_as_kubelet(server)
    until(lambda: is_gone(server, JOB, "one"))


def end_pods_as_kubelet(server: Server) -> None:
    assert isinstance(server.api, Cluster)
    for pod in server.api.list(POD, server.namespace).items:
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        path = POD.path(server.namespace, pod["metadata"]["name"])
        with suppress(NotFound):
            server.api._ask("DELETE", path, body=body, where="a pod")


def until(look: Callable[[], bool]) -> None:
    """Controllers of the server act when they act."""
    while not look():
        pass


def is_gone(server: Server, kind: Kind, name: str) -> bool:
    try:
        server.api.get(kind, server.namespace, name)
    except NotFound:
        return True
    if isinstance(server.api, Cluster):
        end_pods_as_kubelet(server)
    return False


def test_the_real_server_refuses_unknown_fields_and_another_spec(real: Cluster) -> None:
    namespace = make_namespace(real)
    with pytest.raises(Refused, match=r"spec\.nope"):
        real.create(RUN, namespace, {"metadata": {"name": "demo"}, "spec": {**SPEC, "nope": 1}}, strict=True)
    real.create(RUN, namespace, {"metadata": {"name": "demo"}, "spec": SPEC}, strict=True)
    with pytest.raises(Refused):
        real.merge(RUN, namespace, "demo", {"spec": {"seed": 7}})
    assert real.merge(RUN, namespace, "demo", {"spec": {"desired": "Suspended"}})["metadata"]["generation"] == 2


def test_the_status_that_we_write_is_one_that_the_server_keeps(real: Cluster, tmp_path: Path) -> None:
    from tests.control.world import World

    world = World(folder=tmp_path)
    world.apply()
    world.play()
    namespace = make_namespace(real)
    real.create(RUN, namespace, {"metadata": {"name": "demo"}, "spec": SPEC}, strict=True)
    found = real.apply_status(RUN, namespace, "demo", world.status(), manager="m")
    assert found["status"] == json.loads(json.dumps(world.status()))


def test_jobs_of_all_profiles_are_taken_by_the_server(real: Cluster, tmp_path: Path) -> None:
    namespace = make_namespace(real)
    for path in sorted((ROOT / "tests" / "golden" / "jobs").glob("*.yaml")):
        job: dict[str, Any] = yaml.safe_load(path.read_text())
        if job["kind"] == "Job":
            job["metadata"] |= {"namespace": namespace, "name": path.stem}
            job["metadata"].pop("ownerReferences")
            assert real.create(JOB, namespace, job, strict=True)["spec"]["template"]["spec"]["restartPolicy"] == "Never"
