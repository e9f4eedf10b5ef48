"""Checkpoints get into the store beside the training, whatever the store does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tandem.errors import BadConfiguration, Fault, Stopped, TandemError, Unavailable
from tandem.record.commit import write_commit
from tandem.store import FileDigest, Store, download_tree, read_manifest, upload_tree
from tandem.store.directory import Directory
from tandem.store.layout import RunPlace
from tandem.train.checkpoints import checkpoint_name, find_complete
from tandem.train.uploads import MOST_UNSENT, POLL_SECONDS, RETRY_SECONDS, Uploads
from tests.train.saved import EXECUTIONS, list_files, write_checkpoint

EXECUTION = f"{EXECUTIONS}a/"
AWAY = Unavailable(Fault(where="s3://b", what="away", remedy="Wait"))
FULL = BadConfiguration(Fault(where="s3://b", what="full", remedy="Make room"))


class Moody(Directory):
    """A folder that answers with what `moods` says, one for each file, and remembers what it was asked to keep."""

    def __init__(
        self, root: Path, moods: Sequence[TandemError | None] = (), *, then: TandemError | None = None
    ) -> None:
        super().__init__(root)
        self.moods, self.then = list(moods), then
        self.asked: list[str] = []
        self.kept: list[str] = []

    def put_file_if_absent(self, key: str, path: Path) -> FileDigest:
        self.asked.append(key)
        mood = self.moods.pop(0) if self.moods else self.then
        if mood is not None:
            raise type(mood)(mood.faults)
        digest = super().put_file_if_absent(key, path)
        self.kept.append(key)
        return digest


class Gate(Directory):
    """A folder that takes nothing until it is opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.open = threading.Event(), threading.Event()
        self.kept: list[str] = []

    def put_file_if_absent(self, key: str, path: Path) -> FileDigest:
        self.reached.set()
        self.open.wait()
        self.kept.append(key)
        return super().put_file_if_absent(key, path)


MakeUploads = Callable[..., Uploads]


@pytest.fixture
def make_uploads() -> Iterator[MakeUploads]:
    """Uploads that are closed when the test is over."""
    made: list[Uploads] = []

    def make(
        store: Store,
        *,
        leader: int = 0,
        leaders: Sequence[int] = (0,),
        keep: int = 9,
        ticking: bool = False,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> Uploads:
        ticks = iter(range(10**9))
        uploads = Uploads(
            store,
            execution=EXECUTION,
            leader=leader,
            leaders=leaders,
            keep=keep,
            clock=(lambda: float(next(ticks))) if ticking else (lambda: 0.0),
            patience=5.0,
            stop_asked=stop_asked,
        )
        made.append(uploads)
        return uploads

    yield make
    for uploads in made:
        uploads.close(seconds=0)


def prefix_of(step: int) -> str:
    return f"{EXECUTION}checkpoints/{checkpoint_name(step)}"


def steps_of(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(key.removeprefix(f"{EXECUTION}checkpoints/").partition("/")[0] for key in keys))


def test_a_checkpoint_ends_as_a_tree_with_all_its_files(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Directory(tmp_path / "store")
    uploads = make_uploads(store)
    uploads.start()
    uploads.add(write_checkpoint(tmp_path, 2))
    uploads.wait_until_sent(patient=True)
    uploads.wait_until_committed()
    assert sorted(read_manifest(store, prefix_of(2))) == sorted([*list_files(2, ranks=1, zero=0), "progress.json"])
    assert not uploads.failed


def test_rank_0_commits_only_when_the_parts_of_all_nodes_are_there(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Directory(tmp_path / "store")
    nodes = [make_uploads(store, leader=leader, leaders=(0, 4)) for leader in (0, 4)]
    for number, uploads in enumerate(nodes):
        folder = write_checkpoint(tmp_path / str(number), 2)
        for path in folder.iterdir():
            if path.name != "progress.json":
                path.rename(path.with_name(f"{number}-{path.name}"))
        uploads.add(folder)
    assert nodes[0].attend() == POLL_SECONDS
    assert nodes[0].attend() == POLL_SECONDS
    assert find_complete(store, EXECUTIONS) == []
    assert nodes[1].attend() is None
    assert find_complete(store, EXECUTIONS) == []
    assert nodes[0].attend() is None
    assert find_complete(store, EXECUTIONS) == [(2, prefix_of(2))]
    files = list_files(2, ranks=1, zero=0)
    assert sorted(read_manifest(store, prefix_of(2))) == sorted(
        [f"{number}-{name}" for number in (0, 1) for name in files] + ["progress.json"]
    )


def test_part_manifests_disturb_nobody_who_reads_checkpoints(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Directory(tmp_path / "store")
    uploads = make_uploads(store, leaders=(0, 1))
    folder = write_checkpoint(tmp_path / "output" / "checkpoints", 2)
    uploads.add(folder)
    uploads.attend()
    place = RunPlace(namespace="local", run_id="r")
    (tmp_path / "output" / "exit.json").write_text("{}")
    upload_tree(store, tmp_path / "output", EXECUTION)
    assert [entry.key for entry in store.list(f"{prefix_of(2)}/parts/")] == [f"{prefix_of(2)}/parts/00000.json"]
    assert find_complete(store, EXECUTIONS) == []
    commit = write_commit(store, place, "train", "a", "2026-01-01T00:00:00+00:00")
    assert commit.checkpoints == {}
    make_uploads(store, leader=1, leaders=(0, 1)).add(write_checkpoint(tmp_path / "other", 2))
    alone = make_uploads(store)
    alone.add(folder)
    alone.attend()
    assert sorted(path.name for path in download_parts(store, tmp_path)) == sorted(
        [*list_files(2, ranks=1, zero=0), "progress.json"]
    )


def download_parts(store: Store, folder: Path) -> list[Path]:
    download_tree(store, prefix_of(2), folder / "fetched")
    return list((folder / "fetched").iterdir())


def test_a_failed_upload_is_said_and_what_is_there_is_not_sent_again(
    tmp_path: Path, make_uploads: MakeUploads, caplog: pytest.LogCaptureFixture
) -> None:
    store = Moody(tmp_path / "store", [None, None, AWAY], then=AWAY)
    uploads = make_uploads(store)
    uploads.add(write_checkpoint(tmp_path, 2))
    with caplog.at_level(logging.WARNING):
        assert uploads.attend() == RETRY_SECONDS
    assert caplog.messages == ["checkpoint step-000002 is not in the store yet: s3://b: away. Wait"]
    assert not uploads.failed
    there = set(store.kept)
    assert len(there) == 2
    store.then, store.asked = None, []
    assert uploads.attend() is None
    assert there.isdisjoint(store.asked)
    assert find_complete(store, EXECUTIONS) == [(2, prefix_of(2))]


def test_what_did_not_arrive_is_tried_again_with_the_next_checkpoint(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Moody(tmp_path / "store", then=AWAY)
    uploads = make_uploads(store)
    uploads.add(write_checkpoint(tmp_path, 2))
    uploads.attend()
    store.then = None
    uploads.start()
    uploads.add(write_checkpoint(tmp_path, 4))
    uploads.wait_until_sent(patient=True)
    uploads.wait_until_committed()
    assert [step for step, _ in find_complete(store, EXECUTIONS)] == [4, 2]


def test_a_folder_stays_on_this_disk_until_it_is_in_the_store(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Moody(tmp_path / "store", then=AWAY)
    uploads = make_uploads(store, keep=1)
    for step in (2, 4, 6):
        uploads.add(write_checkpoint(tmp_path / "checkpoints", step))
    uploads.attend()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    store.then = None
    uploads.attend()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000006"]
    assert [step for step, _ in find_complete(store, EXECUTIONS)] == [6, 4, 2]


def test_training_waits_and_says_so_while_too_many_are_on_their_way(
    tmp_path: Path, make_uploads: MakeUploads, caplog: pytest.LogCaptureFixture
) -> None:
    store = Gate(tmp_path / "store")
    uploads = make_uploads(store)
    uploads.start()
    for step in range(1, MOST_UNSENT + 1):
        uploads.add(write_checkpoint(tmp_path, step))
    assert caplog.messages == []
    store.reached.wait()
    adding = threading.Thread(target=uploads.add, args=(write_checkpoint(tmp_path, 9),))
    with caplog.at_level(logging.WARNING):
        adding.start()
        store.open.set()
        adding.join()
    assert caplog.messages == ["training waits: 4 checkpoints are on their way to the store"]
    uploads.wait_until_sent(patient=True)
    assert steps_of(store.kept)[0] == "step-000001"


@pytest.mark.parametrize(("trouble", "reason"), [(AWAY, "away"), (None, "more slowly than training makes them")])
def test_training_does_not_wait_for_ever(
    tmp_path: Path, make_uploads: MakeUploads, trouble: TandemError | None, reason: str
) -> None:
    uploads = make_uploads(Moody(tmp_path / "store", then=trouble), ticking=True)
    for step in range(1, MOST_UNSENT + 1):
        uploads.add(write_checkpoint(tmp_path, step))
    if trouble is not None:
        uploads.attend()
    with pytest.raises(Unavailable, match=reason):
        uploads.add(write_checkpoint(tmp_path, 9))


def test_who_was_asked_to_stop_waits_for_no_place(tmp_path: Path, make_uploads: MakeUploads) -> None:
    uploads = make_uploads(Moody(tmp_path / "store"), stop_asked=lambda: True)
    for step in range(1, MOST_UNSENT + 3):
        uploads.add(write_checkpoint(tmp_path, step))


def test_who_was_asked_to_stop_waits_for_a_slow_store_as_long_as_there_is_time(
    tmp_path: Path, make_uploads: MakeUploads
) -> None:
    store = Gate(tmp_path / "store")
    uploads = make_uploads(store, ticking=True)
    uploads.start()
    uploads.add(write_checkpoint(tmp_path, 1))
    with pytest.raises(Stopped, match="too slow to take its last checkpoint in time"):
        uploads.wait_until_sent(patient=False, seconds=2)
    store.open.set()


def test_what_did_not_arrive_is_tried_again_after_a_while_though_nothing_asks_for_it(
    tmp_path: Path, make_uploads: MakeUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.train.uploads.RETRY_SECONDS", 0.01)
    store = Moody(tmp_path / "store", [AWAY])
    uploads = make_uploads(store)
    uploads.start()
    uploads.add(write_checkpoint(tmp_path, 1))
    deadline = time.monotonic() + 60
    while not find_complete(store, EXECUTIONS):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_end_waits_for_everything(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Gate(tmp_path / "store")
    uploads = make_uploads(store)
    uploads.start()
    for step in (1, 2, 3):
        uploads.add(write_checkpoint(tmp_path, step))
    store.reached.wait()
    ending = threading.Thread(target=uploads.wait_until_sent, kwargs={"patient": True})
    ending.start()
    assert find_complete(store, EXECUTIONS) == []
    store.open.set()
    ending.join()
    uploads.wait_until_committed()
    assert [step for step, _ in find_complete(store, EXECUTIONS)] == [3, 2, 1]


def test_at_the_end_the_newest_goes_first(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Moody(tmp_path / "store")
    uploads = make_uploads(store)
    for step in (1, 2, 3):
        uploads.add(write_checkpoint(tmp_path, step))
    uploads.close(seconds=0)
    uploads.attend()
    assert steps_of(store.kept) == ["step-000003", "step-000002", "step-000001"]


@pytest.mark.parametrize(("patient", "tries"), [(True, 2), (False, 1)])
def test_a_store_that_stays_away_is_said_at_the_end(
    tmp_path: Path, make_uploads: MakeUploads, patient: bool, tries: int
) -> None:
    store = Moody(tmp_path / "store", then=AWAY)
    uploads = make_uploads(store)
    uploads.add(write_checkpoint(tmp_path, 1))
    uploads.start()
    with pytest.raises(Unavailable, match="s3://b: away"):
        uploads.wait_until_sent(patient=patient)
    assert len(store.asked) >= tries


def test_what_waiting_does_not_mend_is_a_failure_until_it_is_mended(tmp_path: Path, make_uploads: MakeUploads) -> None:
    store = Moody(tmp_path / "store", then=FULL)
    uploads = make_uploads(store)
    uploads.add(write_checkpoint(tmp_path, 1))
    uploads.attend()
    assert uploads.failed
    store.then = None
    uploads.attend()
    assert not uploads.failed
    store.then = FULL
    uploads.add(write_checkpoint(tmp_path, 2))
    uploads.start()
    with pytest.raises(BadConfiguration, match="s3://b: full"):
        uploads.wait_until_sent(patient=True)


def test_after_a_failure_what_is_under_way_gets_its_time_and_no_more(tmp_path: Path, make_uploads: MakeUploads) -> None:
    arriving = make_uploads(Directory(tmp_path / "store"))
    arriving.add(write_checkpoint(tmp_path, 1))
    arriving.start()
    arriving.close(seconds=1e9)
    assert [step for step, _ in find_complete(Directory(tmp_path / "store"), EXECUTIONS)] == [1]
    stuck = make_uploads(Directory(tmp_path / "store"), ticking=True)
    stuck.add(write_checkpoint(tmp_path, 2))
    stuck.close(seconds=3)
    assert [step for step, _ in find_complete(Directory(tmp_path / "store"), EXECUTIONS)] == [1]
