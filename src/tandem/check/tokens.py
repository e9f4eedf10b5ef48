"""A checkpoint's tokenizer without transformers, whose import brings torch along and takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from tandem.errors import BadData, Fault
from tandem.model.json_files import read_bytes, read_object
from tandem.model.loading import SPECIAL_TOKENS
from tandem.train.samples import Length

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class JsonTokenizer:
    """What `tandem.model.prompt` needs of a tokenizer, over a tokenizer.json."""

    tokenizer: Tokenizer
    add_bos_token: bool
    bos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        """Return the ids of each text under `input_ids`, as transformers does."""
        encoded = self.tokenizer.encode_batch_fast(text, add_special_tokens=add_special_tokens)
        return {"input_ids": [item.ids for item in encoded]}

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """Return a token's id; None if it is not in the vocabulary."""
        found: int | None = self.tokenizer.token_to_id(tokens)
        return found


def read_tokenizer(folder: Path) -> JsonTokenizer:
    """Read tokenizer.json and what tokenizer_config.json says of BOS.

    Raises BadData if either is missing or broken, or a token of InternVL's prompt is not in the vocabulary.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        settings = read_object(folder / "tokenizer_config.json")
        add_bos, bos = bool(settings.get("add_bos_token", False)), settings.get("bos_token")
        tokenizer = Tokenizer.from_buffer(read_bytes(path))
    except BadData:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every kind of broken file
        raise BadData(_broken(folder, str(error))) from None
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise BadData(
            Fault(
                where=str(path),
                what=f"the tokenizer lacks {', '.join(missing)}",
                remedy="Use the tokenizer that was published with this InternVL checkpoint.",
            )
        )
    bos_text = bos.get("content") if isinstance(bos, dict) else bos
    bos_id = tokenizer.token_to_id(bos_text) if isinstance(bos_text, str) else None
    return JsonTokenizer(tokenizer=tokenizer, add_bos_token=add_bos and bos_id is not None, bos_token_id=bos_id)


def describe_lengths(lengths: list[Length]) -> dict[str, Any]:
    """Summarise token lengths: mean, median, 95th percentile, longest, total, and how many of them have a label."""
    tokens = sorted(length.tokens for length in lengths)
    if not tokens:
        return {"samples": 0}
    return {
        "samples": len(tokens),
        "mean": round(fmean(tokens), 1),
        "median": median(tokens),
        "p95": tokens[min(len(tokens) - 1, len(tokens) * 95 // 100)],
        "longest": tokens[-1],
        "total": sum(tokens),
        "image": sum(length.image_tokens for length in lengths),
        "labelled": sum(length.labelled for length in lengths),
    }


def _broken(folder: Path, problem: str) -> Fault:
    return Fault(
        where=str(folder),
        what=f"the tokenizer cannot be read ({(problem.splitlines() or ['no reason given'])[0][:200]})",
        remedy="Download tokenizer.json and tokenizer_config.json of this checkpoint again.",
    )
