"""`tandem controller`: what runs in the cluster and brings its Runs to their end."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tandem import __version__
from tandem.errors import BadConfiguration, Fault
from tandem.inputs import list_references, pin_remote
from tandem.record.run import Pin
from tandem.spec import RunSpec
from tandem.store.opening import open_store


def run_controller(
    store_url: str, *, namespace: str, profiles: Path, host: str, port: int, kubeconfig: str | None
) -> None:
    """Serve the Runs of one namespace until SIGTERM or SIGINT."""
    from tandem.control.assembly import assemble
    from tandem.control.cluster import connect
    from tandem.control.health import serving
    from tandem.control.profiles import read_profiles

    log = open_log()
    if not store_url.startswith("s3://"):
        remedy = "Set TANDEM_STORE to s3://bucket/prefix."
        raise BadConfiguration(Fault(where=store_url, what="is no bucket: pods could not reach it", remedy=remedy))
    api = connect(kubeconfig=kubeconfig, namespace=namespace or None)
    read_profiles(profiles)
    controller = assemble(
        api,
        open_store(store_url),
        namespace=api.namespace,
        profiles=profiles,
        pin=pin_in_store,
        log=log,
        now=time.time,
        random=random.random,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop())
    with serving(controller.health, controller.metrics, host=host, port=port) as chosen:
        log.info(
            "started", version=__version__, namespace=api.namespace, store=store_url, server=api.server, port=chosen
        )
        controller.run()
    log.info("stopped")


def pin_in_store(spec: RunSpec) -> dict[str, Pin]:
    """Pin the inputs of a Run from what the buckets say, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tandem-pins-") as scratch:
        return pin_remote(
            list_references(spec), open_bucket=lambda bucket: open_store(f"s3://{bucket}"), scratch=Path(scratch)
        )


def open_log() -> structlog.stdlib.BoundLogger:
    """One JSON object a line on standard error, also for what libraries say."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(written)
    logging.basicConfig(handlers=[handler], level=os.environ.get("TANDEM_LOG_LEVEL", "INFO"))
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells of each client where its settings come from
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log
