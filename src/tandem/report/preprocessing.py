"""Which figures may stand side by side: those of texts whose images and prompts were prepared in one way.

A server cuts images and writes prompts itself, so its figures differ from in-process ones for reasons that have nothing
to do with the model. Whatever puts figures of two evaluations beside each other asks here first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tandem.errors import BadConfiguration, Fault

OPTION = "--across-preprocessing"
IN_PROCESS = "in-process"
_WORDS = {IN_PROCESS: "in the process of tandem", "server": "by a server"}


def preprocessing_of(result: object) -> str:
    """in-process or server, from a result.json; results from before there were servers are all in-process."""
    return str(result.get("preprocessing", IN_PROCESS)) if isinstance(result, Mapping) else IN_PROCESS


def describe_preprocessing(way: str) -> str:
    """A way in words, to stand over a table."""
    return f"Images and prompts prepared {_WORDS.get(way, way)}"


def group_comparable(results: Sequence[Mapping[str, Any]], *, across: bool) -> list[list[int]]:
    """Indexes of the results that may stand in one table, for each table; in-process ones first, all in their order.

    `across`: someone asked for all of them in one.
    """
    if across:
        return [list(range(len(results)))]
    ways = [preprocessing_of(result) for result in results]
    order = sorted(dict.fromkeys(ways), key=lambda way: way != IN_PROCESS)
    return [[index for index, found in enumerate(ways) if found == way] for way in order]


def require_comparable(results: Mapping[str, Mapping[str, Any]], *, across: bool) -> None:
    """Raise BadConfiguration if these results, by the names of their evaluations, were not prepared in one way.

    `across`: someone asked for the comparison all the same.
    """
    ways = {name: preprocessing_of(result) for name, result in results.items()}
    if across or len(set(ways.values())) < 2:
        return
    said = ", ".join(f"{name}: {way}" for name, way in ways.items())
    raise BadConfiguration(
        Fault(
            where="comparison",
            what=f"images and prompts were not prepared in one way ({said}), so a difference says little of the models",
            remedy=f"Generate both in one way, or give {OPTION} to compare them all the same.",
        )
    )
