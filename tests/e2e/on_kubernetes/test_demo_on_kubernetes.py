"""The demo on a real cluster, as docs/on-kubernetes.md has it, with real images: `make e2e`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.local import layout
from k8s.local.kubectl import KubectlFailed
from tandem.control.api import RUN
from tandem.control.cluster import connect
from tandem.errors import TandemError
from tandem.record.asked import read_ended
from tandem.record.commit import read_commit, read_files
from tandem.stage.score import read_texts
from tandem.store import Store, open_store
from tandem.store.layout import RunPlace
from tests.cluster import Cluster
from tests.e2e.demo_run import Finished, run_demo
from tests.e2e.desk import Desk
from tests.e2e.on_kubernetes.installation import STEPS, give_gpus, prepare_desk, write_schedule, write_values
from tests.e2e.on_kubernetes.page import Reader
from tests.e2e.on_kubernetes.story import Story, tell_story
from tests.e2e.on_kubernetes.tenant import NAMESPACE, Tenant

STORE = "s3://tandem/e2e"
SECONDS = 2400
pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(folder=prepare_desk(tmp_path_factory.mktemp("desk")))


@pytest.fixture(scope="module")
def on_one_machine(desk: Desk) -> Finished:
    return run_demo(desk, str(desk.folder / "store"))


@pytest.fixture(scope="module")
def reader(desk: Desk, cluster: Cluster) -> Reader:
    return Reader(desk=desk, cluster=cluster)


@pytest.fixture(scope="module")
def tenant(reader: Reader, cluster: Cluster) -> Iterator[Tenant]:
    give_gpus(cluster)
    cluster.s3.client().create_bucket(Bucket="tandem")
    write_values(reader.desk.folder, cluster)
    assert "Phase:          Succeeded" in reader.follow("Install")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.s3.environment().items():
            patch.setenv(name, value)
        yield Tenant(cluster=cluster, store=open_store(STORE))


@pytest.fixture(scope="module")
def story(on_one_machine: Finished, reader: Reader, tenant: Tenant) -> Story:
    return tell_story(reader, tenant)


@pytest.fixture
def run(story: Story, desk: Desk) -> Any:
    """The Run as it was applied, to make others of."""
    return yaml.safe_load((desk.folder / "demo.yaml").read_text())


def texts_of(store: Store, place: RunPlace, evaluation: str) -> dict[str, str]:
    """What was generated, by sample."""
    trees = [read_commit(store, place, f"generate/{evaluation}/{shard}").tree for shard in range(2)]
    return {line.sample_id: line.text for tree in trees for line in read_texts(store, tree)}


def read_metrics(store: Store, place: RunPlace, evaluation: str) -> Any:
    keys = [entry.key for entry in store.list(f"{place.prefix}evals/{evaluation}/scores/")]
    (key,) = (key for key in keys if key.endswith("/result.json"))
    return json.loads(store.get(key))["metrics"]


def test_the_check_finds_nothing_missing_in_a_cluster_that_makes_the_run(story: Story) -> None:
    for line in ("  run +not there yet", "  controller +tandem-controller .+", "demo-[0-9a-f]{10}: ready to run"):
        assert re.search(f"^{line}$", story.checked, flags=re.MULTILINE), line


def test_figures_and_texts_are_those_of_one_machine(story: Story, on_one_machine: Finished, tenant: Tenant) -> None:
    assert tenant.status("demo")["phase"] == "Succeeded"
    place = tenant.place("demo")
    for evaluation in ("base", "adapter"):
        there = texts_of(tenant.store, place, evaluation)
        here = texts_of(on_one_machine.store, on_one_machine.place, evaluation)
        assert len(here) == 120
        assert there.keys() == here.keys()
        differing = {name: (text, there[name]) for name, text in here.items() if there[name] != text}
        assert len(differing) <= 0.01 * len(here), differing
        figures = (read_metrics(tenant.store, place, evaluation), on_one_machine.results()[evaluation]["metrics"])
        assert figures[0] == figures[1], differing


def test_training_in_two_pods_that_was_broken_off_gives_the_adapter_of_one_machine(
    story: Story, on_one_machine: Finished, tenant: Tenant
) -> None:
    tree = read_commit(tenant.store, tenant.place("demo"), "train").tree
    name = "adapter/adapter_model.safetensors"
    assert read_files(tenant.store, tree, [name])[name] == on_one_machine.read("train", name)


def test_a_controller_that_is_killed_before_it_notes_its_job_makes_no_second_one(story: Story, tenant: Tenant) -> None:
    assert story.jobs_of_training == 1
    assert story.job_before == story.job_after
    assert tenant.attempts("demo", "train")[0]["job_uid"] == story.job_before


def test_each_attempt_goes_on_from_a_checkpoint_and_its_logs_are_kept(story: Story, tenant: Tenant) -> None:
    without_worker, suspended, last = tenant.attempts("demo", "train")
    assert without_worker["outcome"]["exit_code"] != 0
    assert suspended["outcome"]["exit_code"] == 143
    assert last["outcome"]["exit_code"] == 0
    begun = []
    for attempt in (suspended, last):
        logs = [tenant.store.get(pod["log"]).decode() for pod in attempt["pods"] if pod["log"]]
        assert len(logs) == 2
        found = re.search(r"going on after step (\d+)", "\n".join(logs))
        assert found is not None
        begun.append(int(found[1]))
    assert 10 <= begun[0] < begun[1] <= STEPS


def test_the_command_line_follows_the_run_and_finds_the_logs_of_pods_that_are_gone(
    story: Story, tenant: Tenant
) -> None:
    assert "Run vision/demo: submitted" in story.submitted
    assert "demo: was submitted before (Running)" in story.results
    assert "demo | Running" in story.results
    assert f"Run {NAMESPACE}/demo: Succeeded" in story.results
    assert re.search(r"^adapter +accuracy +[01]\.\d{3}", story.results, re.MULTILINE)
    logs = [pod["log"] for attempt in tenant.attempts("demo", "train") for pod in attempt["pods"]]
    place = tenant.place("demo")
    assert all(f"==> {key.removeprefix(place.prefix)}" in story.results for key in logs if key)
    assert f"Everything lies in {STORE}/{place.prefix}" in story.results


def test_a_store_that_does_not_answer_for_a_while_is_waited_for(story: Story, tenant: Tenant) -> None:
    assert story.requests_that_met_the_outage > 0 or tenant.cluster.registry != layout.REGISTRY
    assert [attempt["outcome"]["exit_code"] for attempt in tenant.attempts("demo", "train")][2:] == [0]


def test_a_suspended_run_frees_its_gpus_and_leaves_nothing(story: Story) -> None:
    assert story.seconds_to_free_gpus < 30
    assert story.left_while_suspended == []


@pytest.fixture(scope="module")
def other(story: Story, desk: Desk, tenant: Tenant) -> list[Any]:
    """Another Run trains; the pods of it."""
    return train_on(desk, tenant, "other")


def train_on(desk: Desk, tenant: Tenant, name: str) -> list[Any]:
    """Have a Run train for longer than any test needs, and return its pods."""
    body = yaml.safe_load((desk.folder / "demo.yaml").read_text())
    body["metadata"]["name"] = name
    body["spec"]["train"] |= {"steps": 20_000, "checkpoints": {"everySteps": 1000}}
    tenant.kubectl("apply", "-f", "-", given=json.dumps(body))
    tenant.wait_until(lambda: "progress" in tenant.status(name), f"{name} trains")
    return find_trainers(tenant, name)


def find_trainers(tenant: Tenant, name: str) -> list[Any]:
    """The pods of a Run's training; its base may be evaluated meanwhile."""
    return tenant.find("pods", f"tandem.dev/run-id={tenant.place(name).run_id},tandem.dev/stage=train")


def test_an_upgrade_and_a_rollback_leave_a_running_run_alone(other: list[Any], reader: Reader, tenant: Tenant) -> None:
    controllers = find_controllers(tenant)
    reader.follow("Upgrade")
    step = tenant.status("other")["progress"]["text"]
    tenant.wait_until(lambda: tenant.status("other")["progress"]["text"] != step, "it goes on")
    pods = find_trainers(tenant, "other")
    assert len(pods) == 2
    assert {pod["metadata"]["uid"]: restarts_of(pod) for pod in pods} == {pod["metadata"]["uid"]: 0 for pod in other}
    assert controllers.isdisjoint(find_controllers(tenant))


def find_controllers(tenant: Tenant) -> set[str]:
    """Uids of the controller's pods that are to stay."""
    pods = tenant.find("pods", "app.kubernetes.io/component=controller")
    return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


def restarts_of(pod: Any) -> int:
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


def test_a_schedule_submits_its_run_at_each_tick(run: Any, reader: Reader, tenant: Tenant) -> None:
    write_schedule(reader.desk.folder, run)
    assert "nightly" in reader.follow("Schedule")
    tenant.wait_until(lambda: bool(find_scheduled(tenant)), "a tick has made a Run")
    (name, *_) = find_scheduled(tenant)
    assert re.fullmatch(r"nightly-\d+", name)
    tenant.wait_until(lambda: tenant.status(name).get("phase") == "Suspended", "the controller has looked at it")
    assert name in {job["metadata"]["name"] for job in tenant.find("jobs")}
    tenant.kubectl("patch", "cronjob", "nightly", "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))


def find_scheduled(tenant: Tenant) -> list[str]:
    return sorted(run["metadata"]["name"] for run in tenant.find("runs") if run["metadata"]["name"].startswith("night"))


def test_a_cancelled_run_frees_its_gpus_and_leaves_nothing(other: list[Any], reader: Reader, tenant: Tenant) -> None:
    reader.follow("Cancel")
    assert tenant.wait_until(lambda: tenant.gpus_in_use() == 0, "GPUs are free") < 30
    tenant.wait_until(lambda: tenant.status("other")["phase"] == "Cancelled", "it is cancelled")
    tenant.wait_until(lambda: tenant.belongings("other") == [], "nothing is left", seconds=30)


def test_a_run_that_is_deleted_while_it_trains_leaves_its_logs_in_the_store(
    story: Story, desk: Desk, tenant: Tenant
) -> None:
    train_on(desk, tenant, "third")
    place, uid = (
        tenant.place("third"),
        json.loads(tenant.kubectl("get", "run", "third", "-o", "json"))["metadata"]["uid"],
    )
    tenant.kubectl("delete", "run", "third", "--wait=false")
    tenant.wait_until(lambda: read_ended(tenant.store, place, uid) is not None, "the Run is recorded")
    ended = read_ended(tenant.store, place, uid)
    assert ended is not None
    assert (ended.phase, ended.outcome and ended.outcome.code) == ("Cancelled", "deleted")
    attempt = json.loads(tenant.store.get(place.attempt_end("train", 1)))
    assert attempt["outcome"]["exit_code"] == 143
    assert [b"step" in tenant.store.get(pod["log"]) for pod in attempt["pods"]].count(True) >= 1
    assert all(pod["log"] and pod["image_id"] for pod in attempt["pods"])
    assert len(attempt["pods"]) == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-profile": ({"profiles": {"train": "nowhere"}}, "spec.profiles.train: nowhere is not a profile here"),
    "four-ranks": (
        {"train": {"ranks": 4, "batch": {"globalSize": 64}}},
        "spec.train.ranks: is 4, and profile train-cpu-demo trains on 2",
    ),
    "by-tag": ({"profiles": {"train": "train-by-tag"}}, "has no digest, and digests are demanded here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_profile_can_run_is_refused_in_one_line(name: str, run: Any, tenant: Tenant) -> None:
    change, said = REFUSED[name]
    wrong = copy.deepcopy(run)
    wrong["metadata"]["name"] = name
    for key, value in change.items():
        wrong["spec"][key] = {**wrong["spec"].get(key, {}), **value}
    wrong["spec"]["evals"] = []
    tenant.kubectl("apply", "-f", "-", given=json.dumps(wrong))
    tenant.wait_until(lambda: bool(tenant.status(name).get("message")), f"{name} is refused")
    message = tenant.status(name)["message"]
    assert said in message
    assert "\n" not in message
    assert tenant.belongings(name) == []


def refuse(run: Any, kubeconfig: Path) -> str:
    """What who submits such a Run is told."""
    with pytest.raises(TandemError) as refused:
        connect(kubeconfig=str(kubeconfig)).create(RUN, NAMESPACE, run, strict=True)
    return str(refused.value)


def test_a_name_that_no_job_could_have_is_refused_in_one_line(run: Any, tenant: Tenant) -> None:
    said = refuse({**run, "metadata": {"name": "a" * 60}}, tenant.cluster.kubeconfig)
    assert "metadata.name: Too long" in said
    assert len(said.splitlines()) == 1


def test_another_spec_under_the_same_name_is_refused_in_one_line(story: Story, tenant: Tenant) -> None:
    with pytest.raises(KubectlFailed) as refused:
        tenant.kubectl("patch", "run", "demo", "--type=merge", "-p", json.dumps({"spec": {"seed": 1}}))
    said: str = refused.value.stderr.strip()
    assert "spec.seed: Forbidden: cannot change" in said
    assert len(said.splitlines()) == 1


def test_who_has_no_permission_is_told_so_in_one_line(run: Any, tenant: Tenant, tmp_path: Path) -> None:
    login = json.loads(tenant.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    login["users"][0]["user"] = {"token": tenant.kubectl("create", "token", "default").strip()}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(login))
    said = refuse(run, kubeconfig)
    assert "is not permitted" in said
    assert f'User "system:serviceaccount:{NAMESPACE}:default" cannot create resource "runs"' in said
    assert len(said.splitlines()) == 1


def test_an_uninstall_keeps_runs_and_data(story: Story, reader: Reader, tenant: Tenant) -> None:
    assert "train-cpu-demo.yaml" in reader.follow("Look at the profiles")
    before = tenant.status("demo")
    reader.follow("Uninstall")
    assert tenant.status("demo") == before
    assert tenant.store.get(tenant.place("demo").record)
    assert [found["metadata"]["name"] for found in tenant.find("deployments")] == []


def test_every_section_of_the_page_was_followed(story: Story, reader: Reader) -> None:
    assert set(reader.sections) == set(reader.done)
    assert NAMESPACE in "".join(reader.sections.values())
