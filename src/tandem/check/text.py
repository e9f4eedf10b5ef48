"""A check's facts as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def draw_facts(facts: Mapping[str, Any]) -> str:
    """One line a fact, indented below its section; bytes in binary units, counts with separators."""
    return "\n".join(_draw(facts, indent=0))


def _draw(facts: Mapping[str, Any], *, indent: int) -> Iterator[str]:
    width = max((len(name) for name, value in facts.items() if not isinstance(value, Mapping)), default=0)
    for name, value in facts.items():
        margin, title = " " * indent, name.replace("_", " ")
        if not isinstance(value, Mapping):
            yield f"{margin}{title:{width}}  {_draw_value(value)}"
        elif any(isinstance(inner, Mapping) for inner in value.values()) or indent == 0:
            yield f"{margin}{title}"
            yield from _draw(value, indent=indent + 2)
        else:
            draw = draw_bytes if name == "memory" else _draw_value
            parts = (
                f"{key.replace('_', ' ')} {_draw_value(inner) if key.endswith('tokens') else draw(inner)}"
                for key, inner in value.items()
            )
            yield f"{margin}{title}: {', '.join(parts)}"


def draw_bytes(count: int) -> str:
    """A number of bytes in the largest binary unit of which it has at least one."""
    power = max(0, min(len(_UNITS) - 1, (count.bit_length() - 1) // 10))
    return f"{count / 2 ** (10 * power):.4g} {_UNITS[power]}"


def _draw_value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}"
