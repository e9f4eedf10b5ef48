"""The model that a Run starts from, and an adapter that it brings along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.check.report import Collector
from tandem.check.sources import Sources
from tandem.check.tokens import JsonTokenizer, read_tokenizer
from tandem.inputs import Reference, Resolver
from tandem.inputs.pin import pin_input
from tandem.inputs.references import InputKind
from tandem.model.card import AdapterCard, choose_template, read_card
from tandem.model.info import ModelInfo, read_model_info
from tandem.model.loading import ADAPTER_WEIGHTS
from tandem.model.prompt import INTERNVL2_5, Template
from tandem.spec import ModelSpec

_SOURCE = "spec.model.source"


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is known of the model; a part that is not usable is None, and there is a finding for it."""

    info: ModelInfo | None = None
    tokenizer: JsonTokenizer | None = None
    digest: str | None = None
    card: AdapterCard | None = None
    template: Template = INTERNVL2_5
    """How prompts are written: the adapter's way where there is one."""


def check_base(spec: ModelSpec, sources: Sources, findings: Collector) -> Base:
    """Read the model's small files and weight headers, digest its files, and compare an adapter with it."""
    folder = None
    with findings.catching("model-unavailable", prefix=_SOURCE):
        folder = sources.resolve(spec.source, spec.revision)
        if folder is None:
            _add_missing(spec, findings)
    if folder is None:
        card, template = _check_adapter(spec, None, sources, findings)
        return Base(card=card, template=template)
    info = tokenizer = None
    with findings.catching("model-unusable", prefix=_SOURCE):
        info = read_model_info(folder)
    if info is not None:
        with findings.catching("tokenizer-unusable", prefix=_SOURCE):
            tokenizer = read_tokenizer(folder)
    digest = _check_digest(spec, folder, findings) if folder.is_dir() else None
    card, template = _check_adapter(spec, digest, sources, findings)
    return Base(info=info, tokenizer=tokenizer, digest=digest, card=card, template=template)


def _add_missing(spec: ModelSpec, findings: Collector) -> None:
    remedy = "Mend the path (relative paths start at the Run file's folder)."
    if spec.revision is None and "://" not in spec.source and not spec.source.startswith((".", "/", "~")):
        remedy += " For a model of the hub, add model.revision with its commit: a branch can move."
    findings.add("model-missing", where=f"{_SOURCE}: {spec.source}", what="is not on this machine", remedy=remedy)


def _check_digest(spec: ModelSpec, folder: Path, findings: Collector) -> str | None:
    digest: str | None = None
    with findings.catching("model-unreadable", prefix=_SOURCE):
        reference = Reference(place=_SOURCE, text=str(folder.absolute()), kind=InputKind.MODEL)
        digest = pin_input(reference, Resolver(folder=folder, cache=folder))[0].digest
        if spec.digest is not None and spec.digest != digest:
            findings.add(
                "model-digest",
                where="spec.model.digest",
                what=f"the files in {folder} have the digest {digest}, not {spec.digest}",
                remedy="Use the files that the digest was taken from, or correct the digest if they are meant.",
                cause="data",
            )
    return digest


def _check_adapter(
    spec: ModelSpec, digest: str | None, sources: Sources, findings: Collector
) -> tuple[AdapterCard | None, Template]:
    if spec.adapter is None:
        return None, INTERNVL2_5
    place = "spec.model.adapter"
    card: AdapterCard | None = None
    template = INTERNVL2_5
    with findings.catching("adapter-unusable", prefix=place):
        folder = sources.resolve(spec.adapter)
        if folder is None:
            findings.add(
                "adapter-missing",
                where=f"{place}: {spec.adapter}",
                what="is not on this machine",
                remedy="Give the folder or s3:// URI of an adapter, such as a training's adapter/.",
            )
            return None, template
        for name in ("adapter_config.json", ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                findings.add(
                    "adapter-unusable",
                    where=f"{place}: {folder}",
                    what=f"holds no {name}",
                    remedy="Give the folder of an adapter, with its weights as safetensors.",
                    cause="data",
                )
        card = read_card(folder)
        template = choose_template(card)
        if digest is not None and card.base.digest != digest:
            findings.add(
                "adapter-base",
                where=f"{place}: {spec.adapter}",
                what=f"it was trained on {card.base.source} ({card.base.digest}), but the model here is {digest}",
                remedy="Give the model that the adapter was trained on as model.source.",
                cause="data",
            )
    return card, template
