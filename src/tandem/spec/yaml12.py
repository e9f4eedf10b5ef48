"""YAML read as Kubernetes reads it, in its JSON subset, with the line of every value.

Plain scalars follow kubernetes-sigs/yaml (goyaml.v2/resolve.go at 742f5e6): 4e-5 is a number, 010 is eight, `y`,
`on` and `no` are truth values, 1:30 and 2026-01-01 are texts. Refused, though Kubernetes takes some of them, because
they hide what a file says or have no canonical form: tags, aliases, repeated keys, keys that are not texts, numbers
that JSON cannot hold exactly, control characters.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import yaml

MAX_VALUES = 20_000
"""A Run file has some hundred values."""
MAX_DEPTH = 50
"""A Run file is nested about six deep; the parser recurses."""
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8785 refuses larger ones)."""

_TRUTH = dict.fromkeys(("y", "yes", "true", "on"), True) | dict.fromkeys(("n", "no", "false", "off"), False)
_NULLS = ("", "~", "null", "Null", "NULL")
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[bB](?P<b>[01]+)|0[oO]?(?P<o>[0-7]+)|0[xX](?P<x>[0-9a-fA-F]+)|(?P<d>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BASES = {"b": 2, "o": 8, "x": 16, "d": 10}
_MAX_DIGITS = 400
"""No finite number of a Run file is written with more digits; Python's own limits are not the message to show."""


class NotReadable(ValueError):
    """The text cannot be read: at which line (from 1; None: unknown), what is wrong, what to do."""

    def __init__(self, line: int | None, what: str, remedy: str) -> None:
        super().__init__(what)
        self.line, self.what, self.remedy = line, what, remedy


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed document and where each of its values stands."""

    value: Any
    root: yaml.Node | None

    def line_of(self, location: tuple[str | int, ...]) -> int:
        """Line (from 1) of the value at this path, or of the nearest one around it that exists."""
        node = self.root
        line = node.start_mark.line if node is not None else 0
        for part in location:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == part]
                if not found:
                    break
                line, node = found[0][0].start_mark.line, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def parse_yaml(text: str) -> Document:
    """Parse one document into dict, list, str, int, float, bool and None. Raises NotReadable."""
    composer: _Composer | None = None
    try:
        composer = _Composer(text)
        root: yaml.Node | None = composer.get_single_node()
    except NotReadable:
        raise
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotReadable(line, f"holds the character U+{_code(error.character):04X}", "Remove it.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise NotReadable(
            mark.line + 1 if mark else None, f"is not valid YAML ({what})", "Mend the syntax there."
        ) from None
    except (ValueError, OverflowError):  # \UFFFFFFFF or %YAML 9999..., which PyYAML converts unchecked
        here = composer.line + 1 if composer else None
        raise NotReadable(here, "holds a number or an escape that is out of range", "Remove it.") from None
    return Document(value=None if root is None else _read(root), root=root)


class _Composer(
    yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer, yaml.resolver.BaseResolver
):
    """PyYAML's parser up to the tree of nodes, without aliases and tags, and within limits."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)
        self._values = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        self._values += 1
        if self._values > MAX_VALUES:
            raise NotReadable(line, f"has more than {MAX_VALUES} values", "Name the data instead of holding them.")
        if self._depth >= MAX_DEPTH:
            raise NotReadable(line, f"is nested more than {MAX_DEPTH} deep", "Mend the brackets.")
        if isinstance(event, yaml.AliasEvent):
            raise NotReadable(line, f"the alias *{event.anchor} is not supported", "Write the value out.")
        if event.tag is not None:
            raise NotReadable(line, "tags (!...) are not supported", "Remove the tag; write a text in quotes.")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _read(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _read_mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return [_read(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    text = _join_surrogates(node)
    return text if node.style else _resolve(text, node.start_mark.line + 1)


def _read_mapping(node: yaml.MappingNode) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _read(key_node)
        if not isinstance(key, str):
            raise NotReadable(line, f"the key {_shorten(key_node)} is not a text", "Write the key in quotes.")
        if key in values:
            raise NotReadable(line, f"the key {_shorten(key_node)} is given twice", "Keep one of the two.")
        values[key] = _read(value_node)
    return values


def _resolve(text: str, line: int) -> Any:
    """The value of a plain scalar."""
    if text in _NULLS:
        return None
    if text in (text.lower(), text.upper(), text.capitalize()) and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if _NOT_FINITE.fullmatch(text):
        raise NotReadable(line, f"{text} is no number that can be used", "Give a finite number.")
    plain = text.replace("_", "") if text[0] in "+-0123456789" else text
    integer, number = _INTEGER.fullmatch(plain), _FLOAT.fullmatch(plain)
    if integer is None and number is None:
        return text
    if len(plain) > _MAX_DIGITS:
        raise NotReadable(line, f"a number of {len(plain)} characters is too long", "Give a shorter number.")
    if integer is not None:
        digits = integer[integer.lastgroup or "d"]
        value = int(integer["sign"] + digits, _BASES[integer.lastgroup or "d"])
        if abs(value) > MAX_INTEGER:
            raise NotReadable(line, f"{text[:40]} is more than 2^53 - 1", "Give a smaller number, or a text in quotes.")
        return value
    fraction = float(plain)
    if not math.isfinite(fraction):
        raise NotReadable(line, f"{text[:40]} is more than a computer's number can hold", "Give a smaller number.")
    return fraction


def _join_surrogates(node: yaml.ScalarNode) -> str:
    r"""The text, with pairs such as "\ud83d\ude00" joined, as JSON writes characters above U+FFFF."""
    text, line = str(node.value), node.start_mark.line + 1
    try:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise NotReadable(line, "a text holds half of a surrogate pair", "Write the character itself.") from None
    control = next((sign for sign in text if unicodedata.category(sign) == "Cc" and sign not in "\t\n\r"), None)
    if control is not None:
        raise NotReadable(line, f"a text holds the control character U+{ord(control):04X}", "Remove it.")
    return text


def _shorten(node: yaml.Node) -> str:
    return ascii(str(node.value)[:40]) if isinstance(node, yaml.ScalarNode) else "that begins here"


def _code(character: Any) -> int:
    return ord(character) if isinstance(character, str) else int(character)
