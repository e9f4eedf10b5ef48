"""What is told of a Run, as the real API server and the one in memory take it."""

from __future__ import annotations

import structlog

from tandem.control.api import EVENT, RUN
from tandem.control.notices import Notices
from tandem.control.times import read_time
from tests.control.servers import Server
from tests.control.world import SPEC


def test_an_event_is_kept_with_its_run_and_said_again_only_its_time_moves(server: Server) -> None:
    run = server.api.create(RUN, server.namespace, {"metadata": {"name": "demo"}, "spec": SPEC})
    seconds = [1.0, 61.0]
    notices = Notices(
        api=server.api, namespace=server.namespace, log=structlog.get_logger(), now=lambda: seconds.pop(0)
    )
    for _ in range(2):
        notices.tell(run, "Refused", "x" * 2000)
    (event,) = (one for one in server.api.list(EVENT, server.namespace).items if one["reason"] == "Refused")
    assert event["involvedObject"]["uid"] == run["metadata"]["uid"]
    assert (event["type"], event["message"]) == ("Warning", "x" * 1000)
    assert read_time(event["lastTimestamp"]) - read_time(event["firstTimestamp"]) == 60
