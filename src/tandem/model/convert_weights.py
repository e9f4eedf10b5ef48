"""Safetensors checkpoints weight by weight: headers first, then one tensor at a time, so that memory stays small.

The format is that of https://github.com/huggingface/safetensors; its library writes whole files only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tandem.errors import BadData, Fault
from tandem.model.info import INDEX, SINGLE, read_index
from tandem.model.json_files import AGAIN

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2 * 2**30
"""Bytes of weights in one file of a checkpoint that we write, unless one weight alone is larger."""

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one number, by the name that safetensors gives its type; InternVL's weights come in no other."""

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of the same."""


class Weight(Protocol):
    """What a file's header says about a weight."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def dtype(self) -> str:
        """Its type, as safetensors spells it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A weight of a checkpoint as the header of its file describes it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def list_weights(folder: Path) -> list[Stored]:
    """Every weight of a checkpoint, by file and name, from the headers alone.

    Raises BadData with every file that is missing, damaged or not safetensors, and with every weight that is stored
    twice, of a type that no InternVL has, or not where the index says.
    """
    index = folder / INDEX
    wanted = read_index(index) if index.is_file() else None
    if wanted is None and not (folder / SINGLE).is_file():
        raise BadData(_describe_absence(folder))
    found: dict[str, Stored] = {}
    faults: list[Fault] = []
    for file in sorted(set(wanted.values())) if wanted else [SINGLE]:
        try:
            stored = read_header(folder / file)
        except BadData as error:
            faults += error.faults
            continue
        for weight in stored:
            if weight.name in found:
                other = found[weight.name].file.name
                faults.append(_fault(weight.file, f"holds {weight.name}, which {other} holds too"))
            elif weight.dtype not in BYTES:
                faults.append(_fault(weight.file, f"holds {weight.name} as {weight.dtype}, not as floating point"))
            found.setdefault(weight.name, weight)
    if wanted is not None and not faults:
        faults = _compare_index(index, wanted, found)
    if faults:
        raise BadData(faults)
    return list(found.values())


def read_tensor(weight: Stored) -> torch.Tensor:
    """One weight; only what is used of it becomes memory of this process for longer than the call."""
    from safetensors import safe_open

    with safe_open(str(weight.file), framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(weight.name)
    return tensor


def write_weights(
    folder: Path,
    weights: Sequence[Weight],
    make: Callable[[Any], torch.Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint of these weights in their order, asking `make` for one tensor at a time.

    Files hold up to `shard_bytes` of weights and have an index if there is more than one. Raises OSError.
    """
    shards = list(_fill_shards(weights, shard_bytes))
    places = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places.update({weight.name: name for weight in shard})
        _write_file(folder / name, shard, make)
    if len(shards) > 1:
        total = sum(map(size_of, weights))
        body = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def size_of(weight: Weight) -> int:
    """Bytes of a weight as stored."""
    size = BYTES[weight.dtype]
    for length in weight.shape:
        size *= length
    return size


def _fill_shards(weights: Iterable[Weight], limit: int) -> Iterable[list[Weight]]:
    shard: list[Weight] = []
    size = 0
    for weight in weights:
        if shard and size + size_of(weight) > limit:
            yield shard
            shard, size = [], 0
        shard.append(weight)
        size += size_of(weight)
    yield shard


def _write_file(path: Path, shard: list[Weight], make: Callable[[Any], torch.Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    ordered = sorted(shard, key=lambda weight: -BYTES[weight.dtype])  # so that each begins at a multiple of its type
    for weight in ordered:
        start, end = end, end + size_of(weight)
        header[weight.name] = {"dtype": weight.dtype, "shape": list(weight.shape), "data_offsets": [start, end]}
    body = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    with path.open("xb") as file:
        file.write(len(body).to_bytes(8, "little") + body)
        for weight in ordered:
            file.write(_to_bytes(make(weight), weight))


def _to_bytes(tensor: torch.Tensor, weight: Weight) -> memoryview:
    import torch

    if tuple(tensor.shape) != weight.shape or str(tensor.dtype) != f"torch.{DTYPES[weight.dtype]}":
        raise ValueError(f"{weight.name}: {tensor.dtype} {tensor.shape}, not {weight.dtype} {weight.shape} as planned")
    flat: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def read_header(file: Path) -> list[Stored]:
    """The weights of one file by name. Raises BadData if it is missing, damaged or not safetensors."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise BadData(_fault(file, "is missing"))
    try:
        with safe_open(str(file), framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in sorted(opened.keys())}
            return [
                Stored(file=file, name=name, dtype=part.get_dtype(), shape=tuple(part.get_shape()))
                for name, part in slices.items()
            ]
    except (SafetensorError, OSError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadData(_fault(file, f"cannot be read as safetensors ({what})")) from None


def _compare_index(index: Path, wanted: dict[str, str], found: dict[str, Stored]) -> list[Fault]:
    astray = [name for name, file in wanted.items() if name not in found or found[name].file.name != file]
    unnamed = sorted(set(found) - set(wanted))
    return [
        _fault(index, f"{len(names)} weights {what}, {names[0]} first")
        for names, what in ((astray, "are not in the files that it names"), (unnamed, "of those files are not in it"))
        if names
    ]


def _describe_absence(folder: Path) -> Fault:
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = f"has weights only as {pickled[0]}, which can run code when loaded" if pickled else "holds no weights"
    remedy = "Use a checkpoint whose weights are in safetensors files."
    return Fault(where=str(folder), what=what, remedy=remedy)


def _fault(file: Path, what: str) -> Fault:
    return Fault(where=str(file), what=what, remedy=AGAIN)
