"""The original evaluation script's view of generated texts (manglu097/Chiron-o1 fde348e, eval/eval.py)."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.evaluate.extract import DEFAULT_MARKER
from tandem.evaluate.records import ScoreLine
from tandem.evaluate.result import Header, Original
from tandem.evaluate.statistics import Observation, mean_with_interval

_JUDGE_MODEL = "deepseek-chat"
_JUDGE_URL = "https://api.deepseek.com"
_BERTSCORE = ({"roberta-large", "FacebookAI/roberta-large"}, 17)


def extract_as_original(text: str, marker: str = DEFAULT_MARKER) -> tuple[str, str] | None:
    """Reasoning before the first marker and answer between the first and the second.

    None where there is no marker: the script passes over the sample and does not count it.
    """
    parts = text.strip().split(marker)
    if len(parts) == 1:
        return None
    return parts[0].strip(), parts[1].strip()


def original_view(lines: Sequence[ScoreLine], header: Header) -> Original:
    """The script's two figures on our verdicts, and where they may differ from its own."""
    seen = [(line.case, line.original) for line in lines if line.original is not None]
    verdicts = [
        Observation(case=case, value=float(view.verdict.verdict == "right"))
        for case, view in seen
        if view.verdict.verdict != "unscored"
    ]
    scores = [Observation(case=case, value=view.bertscore.f1) for case, view in seen if view.bertscore is not None]
    unscored = sum(view.verdict.verdict == "unscored" for _, view in seen)
    return Original(
        closed_accuracy=mean_with_interval(verdicts, header.statistics),
        bertscore_f1=mean_with_interval(scores, header.statistics),
        deviations=tuple(_deviations(header, counted=len(seen), unscored=unscored)),
    )


def _deviations(header: Header, *, counted: int, unscored: int) -> list[str]:
    return [
        *header.generation_deviations,
        *_marker_deviations(header),
        *_judge_deviations(header),
        *_count_deviations(counted, unscored),
        *_bertscore_deviations(header),
    ]


def _marker_deviations(header: Header) -> list[str]:
    if header.marker == DEFAULT_MARKER:
        return []
    return [f"The marker is {header.marker!r}; the original's is {DEFAULT_MARKER!r}."]


def _judge_deviations(header: Header) -> list[str]:
    judge = header.judge
    if judge.kind == "exact":
        return ["Verdicts are by exact match; the original asks a language model."]
    deviations = []
    if judge.protocol == "original":
        deviations.append("The judge's instructions have the original's shape, not its wording.")
        deviations.append(
            "A reply once given is kept and used again; the original asks anew each time, at temperature 0.9."
        )
    else:
        deviations.append(
            "Verdicts are by tandem's protocol (question shown, answer fenced, strict reading, temperature "
            f"{judge.temperature:g}); the original shows no question, reads any 'yes' as right and asks at "
            "temperature 0.9."
        )
    if (judge.model, (judge.url or "").rstrip("/")) != (_JUDGE_MODEL, _JUDGE_URL):
        deviations.append(
            f"The judge is {judge.model} at {judge.url}; the original's is {_JUDGE_MODEL} at {_JUDGE_URL}."
        )
    return deviations


def _count_deviations(counted: int, unscored: int) -> list[str]:
    if counted == 0:
        return ["No sample has a marker: there is no value here, where the original prints 0."]
    if unscored == 0:
        return []
    return [
        f"{unscored} samples without a verdict are left out of closed_accuracy; the original counts an "
        "unclear reply as wrong and ends at a call that fails."
    ]


def _bertscore_deviations(header: Header) -> list[str]:
    if header.bertscore is None:
        return ["No BERTScore was asked for."]
    names, layer = _BERTSCORE
    if header.bertscore.model in names and header.bertscore.layer == layer:
        return []
    return [
        f"BERTScore is by {header.bertscore.model}, layer {header.bertscore.layer}; the original's is by "
        f"roberta-large, layer {layer}, and the two cannot be compared."
    ]
