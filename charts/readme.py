"""Writes the tables of values into the charts' README.md, from the comments of their values.yaml.

`python charts/readme.py` does it for all charts here. A comment directly above a key describes it from `--` on; a line
`# ## Title` begins a section. A described mapping stands as one row, and keys below it need no words of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

BEGIN = "<!-- From here to the end: made from values.yaml by `python charts/readme.py`. -->"


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of a chart."""

    path: tuple[str, ...]
    default: str
    """As JSON; empty for a mapping that has keys."""
    words: str | None
    """What its comment says; None: it has none."""
    section: str | None

    @property
    def key(self) -> str:
        """The path as `helm --set` writes it."""
        return ".".join(part.replace(".", r"\.") for part in self.path)


def read_values(text: str) -> list[Value]:
    """Every key of a values.yaml, in its order; mappings that have keys come before what is in them."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, (), text.splitlines()))


def _walk(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        place = (*path, key.value)
        line = key.start_mark.line
        begins = not lines[line][: key.start_mark.column].strip()  # {a: 1, b: 2} has one comment, and it is not theirs
        full = isinstance(value, yaml.MappingNode) and bool(value.value)
        yield Value(
            path=place,
            default="" if full else _default(value),
            words=_words_above(lines, line) if begins else None,
            section=_section_above(lines, line),
        )
        if full:
            yield from _walk(value, place, lines)


def _default(node: yaml.Node) -> str:
    return json.dumps(yaml.safe_load(yaml.serialize(node)))


def _words_above(lines: list[str], line: int) -> str | None:
    words: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("# "):
        line -= 1
        text = lines[line].strip().removeprefix("# ")
        if text.startswith("-- "):
            return " ".join([text.removeprefix("-- "), *words])
        words.insert(0, text)
    return None


def _section_above(lines: list[str], line: int) -> str | None:
    titles = [text.removeprefix("# ## ") for text in lines[:line] if text.startswith("# ## ")]
    return titles[-1] if titles else None


def shown(values: list[Value]) -> list[Value]:
    """The rows of the table: what is described, and what has a default and stands below nothing described."""
    described = {value.path for value in values if value.words is not None}
    return [
        value
        for value in values
        if value.words is not None
        or (value.default and not any(value.path[:end] in described for end in range(1, len(value.path))))
    ]


def table(values: list[Value]) -> str:
    """The values as Markdown, a table for each section."""
    parts = []
    for section in dict.fromkeys(value.section for value in values):
        rows = [value for value in shown(values) if value.section == section]
        parts.append(
            "\n".join([*([f"### {section}", ""] if section else []), "| value | default | meaning |", "|---|---|---|"])
        )
        parts[-1] += "".join(
            f"\n| `{value.key}` | {_cell(value.default)} | {_escape(value.words or '')} |" for value in rows
        )
    return "\n\n".join(parts) + "\n"


def _cell(default: str) -> str:
    return f"`{_escape(default)}`" if default else "see values.yaml"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def readme(chart: Path) -> str:
    """The chart's README.md as it should be: its own words up to the mark, then the tables."""
    words, mark, _ = (chart / "README.md").read_text(encoding="utf-8").partition(BEGIN)
    assert mark, f"{chart / 'README.md'} has no line {BEGIN!r}"
    return f"{words}{BEGIN}\n\n{table(read_values((chart / 'values.yaml').read_text(encoding='utf-8')))}"


if __name__ == "__main__":
    for found in sorted(Path(__file__).parent.glob("*/Chart.yaml")):
        (found.parent / "README.md").write_text(readme(found.parent), encoding="utf-8")
