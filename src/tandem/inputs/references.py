"""Which inputs a Run names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tandem.spec import RunSpec

PACKAGED_ENCODERS = ("minilm",)
"""BERTScore models that are part of an installed package; its version is recorded with the scores."""


class InputKind(StrEnum):
    """How an input is read."""

    MODEL = "model"
    META = "meta"
    EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One input as the Run file names it."""

    place: str
    """Where in the Run file, for example spec.train.meta."""
    text: str
    """A path relative to the Run file, an s3:// URI, or for models a hub id."""
    kind: InputKind
    revision: str | None = None
    images: str | None = None
    """For evaluations: the folder that image names are relative to. None: the evaluation file's own."""
    limit: int | None = None
    """For data: how many samples are read, from the first on. None: all."""
    may_lack: int = 0
    """For training data: how many samples may be unusable."""


def list_references(spec: RunSpec) -> tuple[Reference, ...]:
    """Every input of a Run, each place once."""
    found = [
        Reference(place="spec.model.source", text=spec.model.source, kind=InputKind.MODEL, revision=spec.model.revision)
    ]
    if spec.model.adapter is not None:
        found.append(Reference(place="spec.model.adapter", text=spec.model.adapter, kind=InputKind.MODEL))
    if spec.train is not None:
        sets = {"spec.train.meta": spec.train.meta}
        if spec.train.validation is not None:
            sets["spec.train.validation.meta"] = spec.train.validation.meta
        found += [
            Reference(place=place, text=text, kind=InputKind.META, limit=spec.limit, may_lack=spec.train.drop_bad)
            for place, text in sets.items()
        ]
    for evaluation in spec.evals:
        place = f"spec.evals[{evaluation.name}]"
        found.append(
            Reference(
                place=f"{place}.data",
                text=evaluation.data,
                kind=InputKind.EVALUATION,
                images=evaluation.images,
                limit=spec.limit,
            )
        )
        encoder = evaluation.bert_score
        if encoder is not None and encoder.model not in PACKAGED_ENCODERS:
            where = f"{place}.bertScore.model"
            found.append(Reference(place=where, text=encoder.model, kind=InputKind.MODEL, revision=encoder.revision))
    return tuple(found)
