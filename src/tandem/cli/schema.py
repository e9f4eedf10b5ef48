"""`tandem schema`."""

from __future__ import annotations

import json
import sys


def print_schema() -> None:
    """Print the JSON schema of the Run file."""
    from tandem.spec.reference import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
