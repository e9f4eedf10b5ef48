from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from tandem.cli.controller import open_log
log = open_log()
log.info("started", run="demo")
logging.getLogger("library").warning("two\\nlines")
logging.getLogger("botocore.credentials").info("Found credentials in environment variables.")
try:
    1 / 0
except ZeroDivisionError:
    log.warning("a look failed", exc_info=True)
"""


def test_each_line_of_the_controllers_log_is_an_object_whoever_wrote_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in said] == [
        ("info", "started"),
        ("warning", "two\nlines"),
        ("warning", "a look failed"),
    ]
    assert said[0]["run"] == "demo"
    assert said[1]["logger"] == "library"
    assert "ZeroDivisionError" in said[2]["exception"]
    assert all(line["timestamp"] for line in said)
