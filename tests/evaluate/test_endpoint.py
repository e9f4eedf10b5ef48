"""Texts from a server that misbehaves: every sample is answered or accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest

from tandem.errors import BadConfiguration, BadData, Fault, Stopped, TandemError, Unavailable
from tandem.evaluate.chat_calls import Caller
from tandem.evaluate.endpoint import HOPELESS, open_caller
from tandem.evaluate.fake_chat import FakeReply
from tandem.evaluate.fake_endpoint import FakeEndpointServer, describe_request
from tandem.evaluate.job import ShardJob
from tandem.evaluate.parts import Progress
from tandem.evaluate.records import Prediction, read_jsonl
from tandem.evaluate.run_endpoint import run_endpoint
from tandem.evaluate.samples import read_eval_samples
from tandem.evaluate.shards import merge_shards, require_equal_settings
from tandem.evaluate.shelf import ShelfPlace
from tandem.model.card import write_card
from tandem.spec import EndpointSpec
from tandem.store.directory import Directory
from tests.evaluate.conftest import BASE_DIGEST, CARD

KEY = "sk-the-secret"
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SAMPLES = 40


class Desk:
    """An evaluation of 40 questions, a server, and a store for parts."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.images = images
        self.waits: list[float] = []
        self.told: list[Progress] = []
        self.said: list[str] = []
        self.report: Callable[[Progress], None] = self.told.append
        self.executions = 0
        self.reply: Callable[[Mapping[str, Any]], FakeReply] = describe_request
        self.server = FakeEndpointServer(self.answer)
        self.store = Directory(folder / "store")
        self.endpoint: dict[str, Any] = {"baseUrl": self.server.base_url, "model": "served"}
        self.evaluation: dict[str, Any] = {"name": "held-out", "data": "eval.json", "of": "base", "maxNewTokens": 8}
        self.data = folder / "eval.json"
        samples = [
            {"id": number, "question": f"Question {number}?", "answer": "yes", "answer_type": "CLOSED"}
            for number in range(SAMPLES)
        ]
        samples[3] |= {"img_name": ["wide.png", "tall.png"], "question": "<image>\nor <image>?"}
        self.data.write_text(json.dumps(samples))

    def answer(self, request: Mapping[str, Any]) -> FakeReply:
        return self.reply(request)

    def connect(self, endpoint: EndpointSpec, *, key: str) -> Caller:
        """As open_caller, with time that passes only by waiting."""
        caller = open_caller(endpoint, key=key)
        caller.sleep = self.waits.append
        caller.jitter = lambda: 1.0
        caller.now = lambda: NOW
        caller.clock = lambda: sum(self.waits)
        return caller

    def generate(self, **fields: Any) -> Path:
        """Do one more attempt; returns its output folder."""
        self.executions += 1
        name = f"{self.executions:03d}-x"
        work = self.folder / "work" / name
        job = ShardJob.model_validate(
            {
                "eval": self.evaluation | {"endpoint": self.endpoint},
                "data": self.data,
                "images": self.images,
                "work": work,
                "base": {"source": "tiny", "digest": BASE_DIGEST},
                "seed": 7,
                **fields,
            }
        )
        run_endpoint(
            job,
            environment={"TANDEM_ENDPOINT_API_KEY": f" {KEY}\n"},
            shelf=ShelfPlace(store=self.store, executions="runs/x/", execution=name),
            report=self.report,
            say=self.said.append,
            connect=self.connect,
        )
        return work / "output"

    def fail(self, kind: type[TandemError]) -> str:
        """Do one more attempt, which is to end in one line."""
        with pytest.raises(kind) as caught:
            self.generate()
        assert KEY not in str(caught.value)
        (fault,) = caught.value.faults
        return str(fault)


@pytest.fixture
def desk(tmp_path: Path, image_folder: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, image_folder)
    with desk.server:
        yield desk


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """All of an adapter that is looked at where a server has its weights: the card."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_card(folder, CARD)
    return folder


def read_predictions(output: Path) -> list[Prediction]:
    return [
        prediction
        for part in sorted(output.glob("part-*.jsonl"))
        for prediction in read_jsonl(Prediction, part.read_bytes(), where=str(part))
    ]


def read_record(output: Path) -> Any:
    return json.loads((output / "generate.json").read_text())


def asked(request: Mapping[str, Any]) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "the one with images"


def failing(wrong: FakeReply, *names: str) -> Callable[[Mapping[str, Any]], FakeReply]:
    """Answers, but for these questions."""
    return lambda request: wrong if asked(request) in names else describe_request(request)


def test_every_sample_gets_its_own_text_and_the_record_says_who_made_it(desk: Desk) -> None:
    output = desk.generate()
    predictions = read_predictions(output)
    samples = read_eval_samples(desk.data)
    assert merge_shards([predictions], samples) == predictions
    assert [each.text for each in predictions[:3]] == [f"user: Question {number}?" for number in range(3)]
    assert predictions[3].text.count("[") == 2
    assert {(each.finish, each.prompt_tokens, each.new_tokens, each.tiles) for each in predictions} == {
        ("stop", 11, 7, None)
    }
    record = read_record(output)
    settings = record["settings"]
    assert settings["preprocessing"] == "server"
    assert settings["tiles"] is None
    assert settings["marker"] == "### The final answer is:"
    assert settings["endpoint"] == {
        "base_url": desk.server.base_url,
        "model": "served",
        "claimed_to_serve": "base",
        "system_message": None,
        "temperature": 0.0,
        "seed": 0,
    }
    served = [{"model": "served-fake", "fingerprint": "fake", "texts": SAMPLES}]
    assert record["shard"]["served_by"] == served
    assert (record["shard"]["prompt_tokens"], record["shard"]["new_tokens"]) == (11 * SAMPLES, 7 * SAMPLES)
    assert record["engine"] == {"name": "endpoint"}
    assert record["environment"]["packages"]["openai"]
    assert desk.told[-1] == Progress(batches=SAMPLES, batches_total=SAMPLES, samples=SAMPLES, samples_total=SAMPLES)
    assert set(desk.server.keys) == {KEY}
    everything = b"".join(path.read_bytes() for path in desk.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in everything


def test_the_token_limit_is_told_from_an_end_of_the_models_own(desk: Desk) -> None:
    desk.reply = failing(FakeReply(content="It is", finish_reason="length"), "Question 5?")
    predictions = read_predictions(desk.generate())
    assert [each.sample_id for each in predictions if each.finish == "length"] == ["5"]
    assert (predictions[5].text, predictions[5].prompt_tokens, predictions[5].new_tokens) == ("It is", None, None)


def test_texts_are_kept_as_they_were_said(desk: Desk) -> None:
    desk.reply = lambda request: FakeReply(content="\n a \n")
    assert {each.text for each in read_predictions(desk.generate())} == {"\n a \n"}
    desk.reply = lambda request: FakeReply(content="")
    desk.endpoint["seed"] = 1
    assert {each.text for each in read_predictions(desk.generate())} == {""}


@pytest.mark.parametrize("usage", ["many", {"prompt_tokens": -1}, [1], None, {"prompt_tokens": 5}])
def test_a_server_that_counts_strangely_is_believed_in_its_text_only(desk: Desk, usage: object) -> None:
    choices = [{"message": {"content": "It is."}, "finish_reason": "stop"}]
    desk.reply = lambda request: FakeReply(body=json.dumps({"choices": choices, "usage": usage}).encode())
    output = desk.generate(limit=2)
    assert {(each.text, each.new_tokens, each.served_model) for each in read_predictions(output)} == {
        ("It is.", None, None)
    }
    assert read_record(output)["shard"]["new_tokens"] is None


def test_models_that_differ_are_recorded_with_each_text(desk: Desk) -> None:
    desk.reply = failing(FakeReply(content="x", model="another"), "Question 5?", "Question 6?")
    output = desk.generate()
    assert [each.served_model for each in read_predictions(output)][4:8] == [
        "served-fake",
        *["another"] * 2,
        "served-fake",
    ]
    assert [(one["model"], one["texts"]) for one in read_record(output)["shard"]["served_by"]] == [
        ("served-fake", SAMPLES - 2),
        ("another", 2),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        FakeReply(status=500),
        FakeReply(status=429),
        FakeReply(body=b"<html>"),
        FakeReply(cut=40),
        FakeReply(reset=True),
        FakeReply(finish_reason="abort"),
    ],
    ids=["500", "429", "garbage", "cut", "reset", "aborted"],
)
def test_a_failure_that_passes_costs_a_wait_and_no_text(desk: Desk, wrong: FakeReply) -> None:
    left = [wrong] * 2

    def reply(request: Mapping[str, Any]) -> FakeReply:
        return left.pop() if asked(request) == "Question 5?" and left else describe_request(request)

    desk.reply = reply
    assert read_predictions(desk.generate())[5].text == "user: Question 5?"
    assert desk.waits == [0.5, 1.0]


def test_the_servers_own_waiting_time_is_honoured(desk: Desk) -> None:
    left = [FakeReply(status=503, headers={"Retry-After": "17"})]
    desk.reply = lambda request: left.pop() if left else describe_request(request)
    desk.generate()
    assert desk.waits == [17.0]


def test_a_sample_without_an_answer_ends_the_attempt_for_now_and_the_others_are_kept(desk: Desk) -> None:
    desk.endpoint["maxRetries"] = 1
    desk.reply = failing(FakeReply(status=500), "Question 20?", "Question 21?")
    said = desk.fail(Unavailable)
    assert said.startswith(f"endpoint {desk.server.base_url}: 2 of 40 samples got no text, the first at {desk.data}")
    assert "(unavailable: HTTP 500)" in said
    before = len(desk.server.requests)
    desk.reply = describe_request
    output = desk.generate()
    # Parts of 16: the first and the last were whole.
    assert sorted({asked(request) for request in desk.server.requests[before:]}) == sorted(
        f"Question {number}?" for number in range(16, 32)
    )
    assert read_record(output)["reused"]["parts"] == {"part-00000.jsonl": "001-x", "part-00002.jsonl": "001-x"}
    assert merge_shards([read_predictions(output)], read_eval_samples(desk.data))[20].text == "user: Question 20?"


def test_with_all_parts_kept_nothing_is_asked(desk: Desk) -> None:
    first = desk.generate()
    count = len(desk.server.requests)
    again = desk.generate()
    assert len(desk.server.requests) == count
    assert read_predictions(again) == read_predictions(first)
    desk.endpoint["temperature"] = 0.5
    desk.generate()
    assert len(desk.server.requests) == 2 * count
    assert "they differ in settings.endpoint.temperature" in "\n".join(desk.said)


def test_a_server_that_answers_nobody_is_not_asked_about_every_sample(desk: Desk) -> None:
    desk.endpoint |= {"maxRetries": 0, "concurrency": 1}
    desk.reply = lambda request: FakeReply(status=503)
    said = desk.fail(Unavailable)
    assert f"{HOPELESS} of 40 samples got no text" in said
    assert len(desk.server.requests) == HOPELESS


def test_to_be_stopped_ends_the_calls_under_way(desk: Desk) -> None:
    desk.reply = lambda request: describe_request(request) if asked(request) == "Question 0?" else FakeReply(hang=True)

    def stop(_: Progress) -> None:
        raise Stopped(Fault(where="this attempt", what="was told to stop", remedy="Go on."))

    desk.report = stop
    desk.fail(Stopped)
    desk.reply = describe_request
    desk.report = desk.told.append
    assert len(read_predictions(desk.generate())) == SAMPLES


def test_a_server_that_is_not_there_is_unavailable_in_one_line(desk: Desk) -> None:
    desk.endpoint |= {"baseUrl": "http://127.0.0.1:9/v1", "maxRetries": 1}
    assert "127.0.0.1:9" in desk.fail(Unavailable)


def test_a_server_that_hangs_costs_its_time_out(desk: Desk) -> None:
    desk.endpoint |= {"timeoutSeconds": 0.05, "maxRetries": 1, "concurrency": 8}
    desk.reply = lambda request: FakeReply(hang=True)
    said = desk.fail(Unavailable)
    assert "8 of 40 samples got no text" in said
    assert "no whole reply in 0.05 s" in said


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404])
def test_a_wrong_key_address_or_model_ends_all_in_one_line(desk: Desk, status: int) -> None:
    body = json.dumps({"error": {"message": f"The model `served` is not here. Your key: {KEY}"}}).encode()
    desk.reply = lambda request: FakeReply(status=status, body=body)
    said = desk.fail(BadConfiguration)
    assert f"endpoint {desk.server.base_url}: answered HTTP {status} The model `served` is not here" in said
    assert len(desk.server.requests) <= 16


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (FakeReply(status=400, body=b'{"error": {"message": "too long"}}'), "refused: HTTP 400 too long"),
        (FakeReply(finish_reason="content_filter"), "refused: the answer was ended by content_filter"),
        (FakeReply(content=None), "refused: the answer has no text"),
    ],
)
def test_a_refused_sample_is_neither_asked_again_nor_counted_as_wrong(
    desk: Desk, wrong: FakeReply, reason: str
) -> None:
    desk.endpoint["concurrency"] = 1
    desk.reply = failing(wrong, "Question 25?")
    said = desk.fail(BadConfiguration)
    assert f"1 of 40 samples got no text, the first at {desk.data}: sample '25' ({reason}" in said
    assert [asked(request) for request in desk.server.requests].count("Question 25?") == 1
    desk.reply = describe_request
    assert "part-00000.jsonl" in read_record(desk.generate())["reused"]["parts"]


def test_calls_run_at_once_but_never_more_than_allowed(desk: Desk) -> None:
    desk.endpoint["concurrency"] = 4
    meeting, lock, running, most = Barrier(4), Lock(), [0], [0]

    def reply(request: Mapping[str, Any]) -> FakeReply:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        meeting.wait(60)
        with lock:
            running[0] -= 1
        return describe_request(request)

    desk.reply = reply
    assert len(read_predictions(desk.generate())) == SAMPLES
    assert most == [4]


def test_shards_share_the_samples_and_merge(desk: Desk) -> None:
    desk.evaluation["shards"] = 3
    outputs = [desk.generate(shard=shard) for shard in range(3)]
    merged = merge_shards([read_predictions(output) for output in outputs], read_eval_samples(desk.data))
    assert [each.text for each in merged[:3]] == [f"user: Question {number}?" for number in range(3)]
    require_equal_settings([read_record(output)["settings"] for output in outputs])
    assert len(desk.server.requests) == SAMPLES


def test_a_limit_takes_the_first_samples_and_a_card_gives_the_marker(desk: Desk, adapter: Path) -> None:
    desk.evaluation["of"] = "adapter"
    output = desk.generate(limit=2, adapter_folder=adapter)
    assert [each.sample_id for each in read_predictions(output)] == ["0", "1"]
    settings = read_record(output)["settings"]
    assert (settings["marker"], settings["adapter"]["seed"], settings["limit"]) == ("Answer:", 5, 2)
    assert settings["endpoint"]["claimed_to_serve"] == "adapter"


def test_what_is_wrong_with_the_data_is_said_before_the_first_call(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        desk.generate(images=tmp_path)
    assert desk.server.requests == []


def test_everything_that_keeps_the_server_from_being_asked_is_said_at_once(desk: Desk, adapter: Path) -> None:
    desk.endpoint |= {"baseUrl": "http://user:word@x", "keyEnv": "OTHER"}
    with pytest.raises(BadConfiguration) as caught:
        desk.generate(base={"source": "another", "digest": "sha256:" + "1" * 64}, adapter_folder=adapter)
    assert [fault.where for fault in caught.value.faults] == [
        str(adapter),
        "evaluation 'held-out': endpoint.baseUrl",
        "evaluation 'held-out': endpoint.keyEnv",
    ]
