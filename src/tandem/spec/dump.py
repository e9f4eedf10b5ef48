"""Writing a value as YAML that reads back as the same value, here and in Kubernetes."""

from __future__ import annotations

from typing import Any

import yaml

from tandem.spec.yaml12 import NotReadable, parse_yaml


class _Dumper(yaml.SafeDumper):
    pass


def dump_yaml(value: Any) -> str:
    """Block style, keys in their order. PyYAML writes for readers to which 4e-3 is a text: such texts are quoted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _reads_as_text(text) else '"')


def _reads_as_text(text: str) -> bool:
    try:
        return bool(parse_yaml(text).value == text)
    except NotReadable:
        return False


_Dumper.add_representer(str, _represent_text)
