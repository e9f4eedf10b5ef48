"""What keeps a local cluster from coming up, in a line for people."""

from __future__ import annotations


class Fault(Exception):
    """One line: what is wrong and what to do."""
