"""`tandem convert`."""

from __future__ import annotations

from pathlib import Path

from tandem.cli.console import print_text
from tandem.cli.places import cache_folder
from tandem.inputs import Resolver
from tandem.inputs.resolve import require


def convert_model(source: str, destination: Path, revision: str | None) -> None:
    """Write the native checkpoint and say what it holds."""
    from tandem.model.convert import convert_checkpoint
    from tandem.model.libraries import load_libraries

    load_libraries()
    resolver = Resolver(folder=Path.cwd(), cache=cache_folder())
    info = convert_checkpoint(require(resolver.resolve(source, revision), "SRC", source), destination)
    size = f"{info.parameters} parameters, {info.weight_bytes} bytes of weights"
    print_text(f"{destination}: InternVL with {info.text_model}, {size}, {info.tokens_per_tile} tokens a tile")
