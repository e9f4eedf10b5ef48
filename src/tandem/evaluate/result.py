"""result.json of one evaluation: schema tandem.dev/result/v1.

docs/result.md and `tandem schema result` are made from these models. A change that a reader of
v1 could misread gets a new version; new fields with a default do not.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeInt, ValidationError

from tandem.errors import BadData, Fault
from tandem.evaluate.bertscore import BertScoreIdentity
from tandem.evaluate.extract import DEFAULT_MARKER
from tandem.evaluate.judge import JudgeIdentity
from tandem.evaluate.records import Record
from tandem.evaluate.served import TextSource
from tandem.evaluate.statistics import Metric, StatisticsSettings

Preprocessing = Literal["in-process", "server"]


class Header(Record):
    """Everything of a result that is not computed from its samples."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_: Literal["tandem.dev/result/v1"] = Field(default="tandem.dev/result/v1", alias="schema")
    """The version of this format."""
    run: str
    """The Run's id."""
    eval: str
    """The evaluation's name in the Run."""
    marker: str = DEFAULT_MARKER
    """What separates reasoning and answer."""
    judge: JudgeIdentity
    """Who gave the verdicts; every report shows its line."""
    bertscore: BertScoreIdentity | None = None
    """What BERTScore was made with; null where none was asked for."""
    statistics: StatisticsSettings = StatisticsSettings()
    """How intervals were resampled."""
    preprocessing: Preprocessing = "in-process"
    """Who cut the images and wrote the prompts; figures of both kinds are compared only on demand."""
    texts_served_by: tuple[TextSource, ...] = ()
    """Who generated in the endpoint's name, most texts first; empty where no server was asked."""
    generation_deviations: tuple[str, ...] = ()
    """Where the texts were made otherwise than by the original script, as generate says."""


class Samples(Record):
    """How many samples there are of each status: total = answered + no_marker + empty + truncated."""

    total: NonNegativeInt
    """All samples of the evaluation, up to the Run's limit."""
    answered: NonNegativeInt
    """With a complete answer, after one marker or several."""
    no_marker: NonNegativeInt
    """Text that the model ended without ever writing the marker."""
    several_markers: NonNegativeInt
    """Of the answered."""
    empty: NonNegativeInt
    """No text, or nothing after the last marker."""
    truncated: NonNegativeInt
    """Ended by the token limit, wherever."""
    unscored: NonNegativeInt
    """Of the answered: the judge gave no verdict."""


class ByType(Record):
    """One figure over all samples, the closed and the open questions, as the evaluation file types them."""

    all: Metric
    """Both types."""
    closed: Metric
    """Questions of type CLOSED."""
    open: Metric
    """Questions of type OPEN."""


class BertScoreF1(Record):
    """Means of BERTScore F1 over questions of both types."""

    answered: Metric
    """Over complete answers."""
    missing_as_zero: Metric
    """Over all samples, 0 for one without a complete answer: in part a marker rate."""
    rescaled: Metric
    """Over complete answers, rescaled so that unrelated texts are about 0; n is 0 without a baseline."""


class Metrics(Record):
    """The honest view."""

    marker_rate: Metric
    """Samples with at least one marker, of all."""
    accuracy: ByType
    """Right verdicts, of all samples but the unscored; without a complete answer a sample is wrong."""
    exact: ByType
    """Answers equal to the reference after normalisation, of all samples."""
    bertscore_f1: BertScoreF1
    """How similar answers are to their references, token by token."""


class Original(Record):
    """The original script's view of the same texts: its extraction, its denominators.

    Both figures are over the samples with a marker, closed and open alike: the script skips the others
    before it counts, and never looks at the answer type.
    """

    closed_accuracy: Metric
    """Right verdicts, of the samples with a verdict; its name is the script's."""
    bertscore_f1: Metric
    """Mean F1, not rescaled."""
    deviations: tuple[str, ...]
    """Everything in which these two figures may differ from what the script itself would print."""


class ServedBy(Record):
    """One model, in one configuration, as the judge's server named it."""

    model: str | None
    """The model's name as the server returned it."""
    fingerprint: str | None
    """The server's own fingerprint of its configuration."""
    replies: NonNegativeInt
    """Verdicts of either view that rest on its replies, those without a verdict included."""


class Result(Header):
    """One evaluation's figures in two views, with all that is needed to read them rightly."""

    samples: Samples
    """Counts by status."""
    cases: NonNegativeInt
    """Independent cases; intervals are resampled over them."""
    metrics: Metrics
    """Figures of the honest view, which counts every sample."""
    original: Original
    """The original script's view."""
    unscored: dict[str, NonNegativeInt]
    """Why samples have no verdict: unavailable (no reply), refused, unparseable; with counts."""
    judge_served_by: tuple[ServedBy, ...] = ()
    """Who answered in the judge's name, most replies first; empty where no model was asked."""
    warnings: tuple[str, ...]
    """What a reader of the figures should know, one sentence each."""

    def header(self) -> Header:
        """The part that was not computed from samples."""
        return Header.model_validate({name: getattr(self, name) for name in Header.model_fields})


def write_result(result: Result) -> bytes:
    """result.json: UTF-8, indented, ended by a newline; equal results give equal bytes."""
    return result.model_dump_json(indent=2).encode() + b"\n"


def read_result(body: bytes, *, where: str) -> Result:
    """Read result.json; `where` names it in messages. Raises BadData if it is no such file."""
    try:
        return Result.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise BadData(
            [
                Fault(
                    where=f"{where}, {'.'.join(map(str, problem['loc']))}".removesuffix(", "),
                    what=problem["msg"],
                    remedy="Score again to write it anew",
                )
                for problem in problems
            ]
        ) from None
