"""`tandem schema`."""

from __future__ import annotations

from tandem.cli.console import print_json


def print_schema(of: str) -> None:
    """Print the JSON schema of the Run file (run), of result.json (result), or of a line of samples.jsonl (sample)."""
    if of == "run":
        from tandem.spec.reference import json_schema

        print_json(json_schema())
        return
    from tandem.evaluate.reference import describe_format

    print_json(describe_format(of))
