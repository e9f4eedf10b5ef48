"""A remote-code checkpoint's tokenizer as one tokenizer.json: every id unchanged, InternVL's tokens by their roles.

How the slow originals split text: transformers' Qwen2Tokenizer (byte-level BPE), and InternLM2Tokenizer of
OpenGVLab/InternVL 2410d1d (SentencePiece BPE). `tests/golden/remote_code` holds ids made by both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.model.convert_config import INTERNLM2, RemoteConfig
from tandem.model.json_files import AGAIN, read_bytes, read_json, read_object
from tandem.model.loading import SPECIAL_TOKENS
from tandem.model.tiny import SPLIT_WORDS

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

ROLES = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
"""What transformers' InternVLProcessor asks the tokenizer for."""

_NORMAL, _USER_DEFINED = 1, 4
"""Kinds of SentencePiece's pieces: found by merging, and found whole before any merging."""
_LONGEST_PIECE = 1024
"""Characters: SentencePiece makes none of more than 16 unless told to."""
_BPE = 2
"""SentencePiece's number for models of this kind."""


@dataclass(frozen=True, kw_only=True)
class ConvertedTokenizer:
    """What is written into tokenizer.json and tokenizer_config.json."""

    tokenizer: Tokenizer
    settings: dict[str, Any]

    def token_id(self, token: str) -> int:
        """The id of a token that is known to be there."""
        found: int | None = self.tokenizer.token_to_id(token)
        assert found is not None
        return found


def convert_tokenizer(folder: Path, config: RemoteConfig) -> ConvertedTokenizer:
    """Read a remote-code checkpoint's tokenizer. Raises BadData with everything that is wrong with it."""
    settings = read_object(folder / "tokenizer_config.json")
    added = _read_added_tokens(folder, settings)
    internlm2 = config.llm_config.architecture == INTERNLM2
    files = ["tokenizer.model"] if internlm2 else ["vocab.json", "merges.txt"]
    if all((folder / name).is_file() for name in files):
        tokenizer = _build_sentencepiece(folder, added) if internlm2 else _build_byte_level(folder)
        tokenizer.add_tokens([token for _, token in sorted(added.items())])
        _add_beginning(tokenizer, settings, default=internlm2, where=folder)
    elif (folder / "tokenizer.json").is_file():
        tokenizer = _read_fast(folder / "tokenizer.json")
    else:
        raise BadData(
            Fault(where=str(folder), what=f"holds neither {' and '.join(files)} nor tokenizer.json", remedy=AGAIN)
        )
    faults = _check(tokenizer, added, config.llm_config.vocab_size, folder)
    if faults:
        raise BadData(faults)
    return ConvertedTokenizer(tokenizer=tokenizer, settings=_describe(tokenizer, settings, internlm2=internlm2))


def write_tokenizer(folder: Path, converted: ConvertedTokenizer, *, chat_template: str) -> None:
    """Write the tokenizer's files; equal tokenizers have equal bytes."""
    state = json.loads(converted.tokenizer.to_str())
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    body = json.dumps(converted.settings, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(body, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def _read_added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """Tokens beside those of the vocabulary's own file, by id."""
    from tokenizers import AddedToken

    where = folder / "tokenizer_config.json"
    tokens: dict[int, AddedToken] = {}
    entries = settings.get("added_tokens_decoder", {})
    try:
        for number, entry in entries.items():
            flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
            tokens[int(number)] = AddedToken(str(entry["content"]), special=bool(entry.get("special", False)), **flags)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"its added_tokens_decoder is not a table of tokens ({type(error).__name__})"
        raise BadData(Fault(where=str(where), what=what, remedy=AGAIN)) from None
    path = folder / "added_tokens.json"
    if not path.is_file():
        return tokens
    special = {_text_of(entry) for entry in _listed_special(settings)} | set(SPECIAL_TOKENS)
    for text, number in read_object(path).items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise BadData(Fault(where=str(path), what=f"{text[:60]!r} has no id", remedy=AGAIN))
        if number in tokens and tokens[number].content != text:
            what = f"gives id {number} to {text[:60]!r}, tokenizer_config.json to {tokens[number].content[:60]!r}"
            raise BadData(Fault(where=str(path), what=what, remedy=AGAIN))
        tokens.setdefault(number, AddedToken(text, special=text in special, normalized=False))
    return tokens


def _listed_special(settings: dict[str, Any]) -> Iterable[Any]:
    listed = settings.get("additional_special_tokens")
    return [*(listed if isinstance(listed, list) else []), *(settings.get(f"{role}_token") for role in _ROLE_NAMES)]


_ROLE_NAMES = ("bos", "eos", "pad", "unk")


def _text_of(entry: Any) -> str | None:
    """A token that is written as text or as a table with its text."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _build_byte_level(folder: Path) -> Tokenizer:
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.processors import ByteLevel as Processor

    vocabulary = _read_vocabulary(folder / "vocab.json")
    tokenizer = Tokenizer(BPE(vocabulary, _read_merges(folder / "merges.txt", vocabulary)))
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(SPLIT_WORDS), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = Decoder()
    tokenizer.post_processor = Processor(trim_offsets=False)
    return tokenizer


def _read_vocabulary(path: Path) -> dict[str, int]:
    vocabulary = read_object(path)
    numbers = list(vocabulary.values())
    if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise BadData(Fault(where=str(path), what="its ids are not 0, 1, 2 and so on", remedy=AGAIN))
    return vocabulary


def _read_merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not all(part in vocabulary for part in (left, right, left + right)):
            what = f"{line[:60]!r} does not merge two tokens of vocab.json into a third"
            raise BadData(Fault(where=f"{path}:{number}", what=what, remedy=AGAIN))
        pairs.append((left, right))
    return pairs


def _build_sentencepiece(folder: Path, added: dict[int, AddedToken]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE
    from transformers.convert_slow_tokenizer import generate_merges

    path = folder / "tokenizer.model"
    model = _parse_sentencepiece(path)
    names = [added[number].content if number in added else piece.piece for number, piece in enumerate(model.pieces)]
    vocabulary = {name: number for number, name in enumerate(names)}
    if len(vocabulary) != len(names):
        raise BadData(Fault(where=str(path), what="two of its pieces are the same", remedy=AGAIN))
    kinds = dict(zip(names, (piece.type for piece in model.pieces), strict=True))
    scores = [(name, piece.score) for name, piece in zip(names, model.pieces, strict=True)]
    apart = [name for name, kind in kinds.items() if kind != _NORMAL]
    merges = generate_merges(vocabulary, scores, apart)
    unknown = model.trainer_spec.unk_piece
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = model.normalizer_spec.add_dummy_prefix
    spaces = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    whole = [name for number, name in enumerate(names) if kinds[name] == _USER_DEFINED and number not in added]
    tokenizer.add_tokens([AddedToken(name, normalized="▁" in name, special=False) for name in whole])
    return tokenizer


def _parse_sentencepiece(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from transformers.utils import sentencepiece_model_pb2_new
    except ImportError:
        raise BadConfiguration(
            Fault(
                where=str(path),
                what="cannot be read without the package protobuf",
                remedy="Install what training needs: pip install 'tandem[train]'.",
            )
        ) from None
    schema: Any = sentencepiece_model_pb2_new
    model = schema.ModelProto()
    try:
        model.ParseFromString(read_bytes(path))
    except DecodeError:
        raise BadData(Fault(where=str(path), what="is not a SentencePiece model", remedy=AGAIN)) from None
    rules, texts = model.normalizer_spec, [piece.piece for piece in model.pieces]
    checks = (
        (
            not all(isinstance(text, str) and 0 < len(text) <= _LONGEST_PIECE for text in texts),
            "has pieces that are no text, empty or far too long",
        ),
        (model.trainer_spec.unk_piece not in texts, "has no piece for what it does not know"),
        (not model.pieces, "holds no pieces"),
        (model.trainer_spec.model_type != _BPE, "is not a BPE model"),
        (not model.trainer_spec.byte_fallback, "does not spell unknown characters in bytes"),
        (rules.remove_extra_whitespaces, "removes blanks, which the original's tokenizer does not"),
        (bool(rules.precompiled_charsmap), "rewrites characters, which the original's tokenizer does not"),
        (not rules.escape_whitespaces, "does not mark blanks"),
    )
    faults = [Fault(where=str(path), what=what, remedy=AGAIN) for wrong, what in checks if wrong]
    if faults:
        raise BadData(faults)
    return model


def _add_beginning(tokenizer: Tokenizer, settings: dict[str, Any], *, default: bool, where: Path) -> None:
    """Let each text begin with the BOS token if the original's do."""
    from tokenizers.processors import TemplateProcessing

    settings["add_bos_token"] = bool(settings.get("add_bos_token", default))
    if not settings["add_bos_token"]:
        return
    token = _text_of(settings.get("bos_token"))
    number = tokenizer.token_to_id(token) if token else None
    if token is None or number is None:
        what = "add_bos_token is true, but bos_token is not one of the tokens"
        raise BadData(Fault(where=str(where / "tokenizer_config.json"), what=what, remedy=AGAIN))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1", special_tokens=[(token, number)]
    )


def _read_fast(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    read_json(path)
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        what = f"is not a tokenizer ({str(error)[:200]})"
        raise BadData(Fault(where=str(path), what=what, remedy=AGAIN)) from None
    return tokenizer


def _check(tokenizer: Tokenizer, added: dict[int, AddedToken], rows: int, folder: Path) -> list[Fault]:
    moved = [token.content for number, token in added.items() if tokenizer.token_to_id(token.content) != number]
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    split = [token for token in SPECIAL_TOKENS if token not in missing and len(_ids(tokenizer, token)) != 1]
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    checks = (
        (bool(moved), f"{len(moved)} added tokens would get another id, {moved[0] if moved else ''} first"),
        (bool(missing), f"the tokenizer lacks {', '.join(missing)}"),
        (bool(split), f"the tokenizer splits {', '.join(split)}"),
        (largest >= rows, f"the tokenizer has ids up to {largest}, the model's vocab_size is {rows}"),
    )
    return [Fault(where=str(folder), what=what, remedy=AGAIN) for wrong, what in checks if wrong]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _describe(tokenizer: Tokenizer, settings: dict[str, Any], *, internlm2: bool) -> dict[str, Any]:
    tokens = {f"{role}_token": _text_of(settings.get(f"{role}_token")) for role in _ROLE_NAMES}
    known = {name: text for name, text in tokens.items() if text and tokenizer.token_to_id(text) is not None}
    unused = ("<video>", "<|video_pad|>", known.get("unk_token"), known.get("pad_token"), known.get("eos_token"))
    video = next((text for text in unused if text and tokenizer.token_to_id(text) is not None), "<|im_end|>")
    length = settings.get("model_max_length")
    return {
        # The generic class takes tokenizer.json as it is; transformers' Llama class would put other rules in its place.
        "tokenizer_class": "PreTrainedTokenizerFast" if internlm2 else "Qwen2Tokenizer",
        "add_bos_token": settings.get("add_bos_token", False),
        "clean_up_tokenization_spaces": False,
        "model_max_length": length if isinstance(length, int) and length > 0 else 2**30,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        **known,
        **ROLES,
        "video_token": video,  # asked for by the processor; a text with "<video>" in it must not become a new token
        "extra_special_tokens": {**ROLES, "video_token": video},
    }
