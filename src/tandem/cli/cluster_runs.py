"""`tandem list` and `tandem status` of a cluster, `tandem suspend`, `tandem resume` and `tandem cancel`."""

from __future__ import annotations

import time

from tandem.cli.console import Format, print_answer
from tandem.cli.where import Login
from tandem.control.client import find_run, is_final, list_runs, want
from tandem.report.run_status import draw_runs, draw_status
from tandem.spec import Desired


def list_cluster_runs(login: Login, *, output: Format) -> None:
    """Every Run object of the namespace."""
    api = login.connect()
    runs = list_runs(api, api.namespace)
    nothing = f"no Runs in namespace {api.namespace}"
    print_answer(runs, output, draw=lambda: draw_runs(runs, now=time.time()) if runs else nothing)


def show_status(run: str, login: Login, *, output: Format) -> None:
    """What the controller says of one Run."""
    api = login.connect()
    found = find_run(api, api.namespace, run)
    print_answer(found, output, draw=lambda: draw_status(found))


def change_desired(run: str, login: Login, desired: Desired, *, output: Format) -> None:
    """Have a Run pause, go on or end; one that is over stays as it is."""
    api = login.connect()
    found = find_run(api, api.namespace, run)
    if not is_final(found):
        found = want(api, found, desired)
    print_answer(found, output, draw=lambda: draw_status(found))
